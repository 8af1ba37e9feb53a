-- +goose Up

-- Every name is bytea: no order and no comparison depends on a collation. Plain tables without functions, triggers,
-- partitions and foreign keys, so that a cluster can shard each table by its first column.

CREATE TABLE stream (
	number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never used twice
	name          bytea  NOT NULL UNIQUE,
	last          bigint NOT NULL DEFAULT 0, -- the sequence number of the last item
	removed       bigint NOT NULL DEFAULT 0, -- items up to this one are gone
	bytes         bigint NOT NULL DEFAULT 0, -- of payload, all items up to last
	removed_bytes bigint NOT NULL DEFAULT 0, -- the same, up to removed
	position      bigint NOT NULL DEFAULT 0, -- the highest position of an item in a conversation's log
	time          bigint NOT NULL DEFAULT 0, -- of the last item: never goes back
	readers       bigint NOT NULL DEFAULT 0  -- not fewer than there are
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- bytes and position are those of the stream as of the item.
CREATE TABLE item (
	stream   bigint   NOT NULL,
	seq      bigint   NOT NULL,
	kind     smallint NOT NULL,
	ordered  boolean  NOT NULL,
	id       uuid     NOT NULL,
	time     bigint   NOT NULL,
	bytes    bigint   NOT NULL,
	position bigint   NOT NULL,
	payload  bytea    NOT NULL,
	PRIMARY KEY (stream, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE item ALTER payload SET STORAGE EXTERNAL;

-- Entries that were removed before a reader had them.
CREATE TABLE kept (LIKE item INCLUDING ALL);

-- The deduplication window. period is the length of time in which the id came.
CREATE TABLE item_id (
	stream bigint NOT NULL,
	id     uuid   NOT NULL,
	seq    bigint NOT NULL,
	period bigint NOT NULL,
	PRIMARY KEY (stream, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX item_id_period ON item_id (period);

CREATE TABLE reader (
	stream bigint NOT NULL,
	token  uuid   NOT NULL,
	acked  bigint NOT NULL,
	until  bigint NOT NULL DEFAULT 0, -- the last item of a reader that leaves; 0 for one that stays
	PRIMARY KEY (stream, token)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- Who brought items that another organization sent. items and bytes are running sums of one sender in one stream.
CREATE TABLE sent (
	stream bigint NOT NULL,
	sender bigint NOT NULL,
	seq    bigint NOT NULL,
	size   bigint NOT NULL,
	items  bigint NOT NULL,
	bytes  bigint NOT NULL,
	PRIMARY KEY (stream, sender, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- What waits for other organizations. seq rises over the whole table.
CREATE SEQUENCE lane_seq;
CREATE TABLE lane_item (
	org          bytea  NOT NULL,
	conversation bytea  NOT NULL,
	seq          bigint NOT NULL,
	id           uuid   NOT NULL,
	time         bigint NOT NULL,
	payload      bytea  NOT NULL,
	PRIMARY KEY (org, conversation, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE lane_item ALTER payload SET STORAGE EXTERNAL;
CREATE TABLE lane_id (
	org          bytea  NOT NULL,
	conversation bytea  NOT NULL,
	id           uuid   NOT NULL,
	seq          bigint NOT NULL,
	period       bigint NOT NULL,
	PRIMARY KEY (org, conversation, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX lane_id_period ON lane_id (period);

-- Which device reads what.
CREATE TABLE joined (
	device       bytea  NOT NULL,
	token        uuid   NOT NULL,
	conversation bytea  NOT NULL,
	since        bigint NOT NULL,
	PRIMARY KEY (device, token, conversation)
);

-- For which conversations a file was uploaded.
CREATE TABLE binding (
	hash         bytea  NOT NULL,
	size         bigint NOT NULL,
	conversation bytea  NOT NULL,
	PRIMARY KEY (hash, size, conversation)
);

-- The submission keys of past epochs.
CREATE TABLE epoch_key (
	conversation bytea  NOT NULL,
	epoch        bigint NOT NULL,
	seq          bigint NOT NULL,
	key          bytea  NOT NULL,
	PRIMARY KEY (conversation, epoch, seq)
);
CREATE TABLE epoch_searched (conversation bytea PRIMARY KEY);

-- Since which epoch an address reads a conversation, and which entries have ended that.
CREATE TABLE member (
	token        uuid   NOT NULL,
	conversation bytea  NOT NULL,
	since        bigint NOT NULL,
	PRIMARY KEY (token, conversation)
);
CREATE TABLE removal (
	conversation bytea  NOT NULL,
	epoch        bigint NOT NULL,
	seq          bigint NOT NULL,
	time         bigint NOT NULL,
	value        bytea  NOT NULL,
	PRIMARY KEY (conversation, epoch, seq)
);
CREATE INDEX removal_time ON removal (time);

CREATE TABLE founder (
	conversation bytea  PRIMARY KEY,
	at           bigint NOT NULL,
	account      bytea  NOT NULL
);

-- The state of each node's clock.
CREATE TABLE clock (
	node  bytea PRIMARY KEY,
	state bytea NOT NULL
);

-- The records of the directory. ends is the time after which a record is swept; null for a record without an end.
CREATE TABLE record (
	kind  smallint NOT NULL,
	owner bytea    NOT NULL,
	key   bytea    NOT NULL,
	ends  bigint,
	value bytea    NOT NULL,
	PRIMARY KEY (kind, owner, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX record_ends ON record (kind, ends) WHERE ends IS NOT NULL;

-- A change of a user's records locks the row of the user.
CREATE TABLE record_lock (
	name  bytea  PRIMARY KEY,
	count bigint NOT NULL
) WITH (fillfactor = 50);

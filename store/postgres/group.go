package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mlsfed/mlsfed/federation/outbox/lanestore"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/wire"
)

// Bounds of one transaction.
const (
	maxGather      = 256     // requests
	maxGatherBytes = 1 << 20 // of payload, after which no further request is taken in
	maxWaiting     = 1024    // requests that wait without blocking their callers
)

// request is a change of streams, lanes and readers that one caller waits for. The writer owns it until done is closed.
type request struct {
	puts    []mailbox.Put
	change  *change
	queue   []lanestore.Item
	readers []store.Joined

	done    chan struct{}
	results []mailbox.Result // of puts; a result that was set before is a refusal
	checked []bool           // puts that were refused before
	full    map[wire.Domain]bool
	err     error // of the change, or of the transaction

	tried    map[int]uint64           // places that a transaction of unknown outcome gave to puts
	reserved map[int]lanestore.Queued // of queue: the outbox has made room for them
	refused  map[int]bool             // of queue: the outbox has no room for them
}

// change is a change of the readers of a stream without an item.
type change struct {
	stream      mailbox.Stream
	join, leave []wire.Token
}

func (r *request) bytes() (n int) {
	for i := range r.puts {
		n += len(r.puts[i].Payload)
	}
	for i := range r.queue {
		n += len(r.queue[i].Payload)
	}
	return n
}

// reset prepares a request for another transaction.
func (r *request) reset() {
	for i := range r.results {
		if !r.checked[i] {
			r.results[i] = mailbox.Result{}
		}
	}
	r.err = nil
	clear(r.full)
	for i := range r.refused {
		r.full[r.queue[i].Organization] = true
	}
}

// group makes the transactions of a database: all requests that wait at the same moment go into one, so that they share
// its round trips and its fsync. One transaction is under way at a time.
type group struct {
	d        *Database
	requests chan *request
	started  chan struct{}   // closed when run has begun
	stopped  chan struct{}   // closed when run has ended
	ctx      context.Context // of run
	box      *Mailbox        // nil before Store
	periods  periods         // of the streams' ids
	lanes    periods         // of the lanes' ids
}

func newGroup(d *Database) *group {
	return &group{d: d, requests: make(chan *request, maxWaiting), started: make(chan struct{}), stopped: make(chan struct{})}
}

// do has a request made and waits for its end, but no longer than the caller's context and the patience of the database.
// The request is finished also if nobody waits for it any more.
func (g *group) do(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := serving(ctx, g.started, g.stopped); err != nil {
		return err
	}
	r.done, r.full = make(chan struct{}), make(map[wire.Domain]bool)
	limit, cancel := context.WithTimeout(ctx, g.d.o.Patience)
	defer cancel()
	late := func() error {
		if ctx.Err() != nil {
			return fmt.Errorf("%w before the answer: the change may have been made, repeat it with the same id", ctx.Err())
		}
		return unavailable()
	}
	return await(g.requests, r, limit, g.stopped, late)
}

// pending is a request that somebody waits for.
type pending interface {
	ended() <-chan struct{} // closed when outcome is final
	outcome() error
}

func (r *request) ended() <-chan struct{} { return r.done }
func (r *request) outcome() error         { return r.err }

// await passes a request to the goroutine that serves it, and waits for the outcome until limit or stop ends.
func await[R pending](to chan<- R, r R, limit context.Context, stop <-chan struct{}, late func() error) error {
	select {
	case to <- r:
	case <-limit.Done():
		return late()
	case <-stop:
		return stopped()
	}
	select {
	case <-r.ended():
		return r.outcome()
	case <-limit.Done():
		return late()
	case <-stop:
	}
	select {
	case <-r.ended():
		return r.outcome()
	default:
		return stopped()
	}
}

// serving waits until a part works, and refuses when it has stopped.
func serving(ctx context.Context, started, stop <-chan struct{}) error {
	select {
	case <-stop:
		return stopped()
	default:
	}
	select {
	case <-started:
		return nil
	case <-stop:
		return stopped()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes transactions until ctx ends.
func (g *group) run(ctx context.Context) {
	defer close(g.stopped)
	g.ctx = ctx
	close(g.started)
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-g.requests:
			list := []*request{first}
			for size := first.bytes(); len(list) < maxGather && size < maxGatherBytes; {
				select {
				case r := <-g.requests:
					list, size = append(list, r), size+r.bytes()
					continue
				default:
				}
				break
			}
			g.make(list)
		}
	}
}

// make makes one transaction of requests and answers them. If a transaction fails for a reason that a repetition does
// not mend, each request gets a transaction of its own, so that the others do not fail with the one that is the reason.
func (g *group) make(list []*request) {
	t, err := g.repeat(list)
	if err != nil && len(list) > 1 && g.ctx.Err() == nil {
		for _, r := range list {
			g.make([]*request{r})
		}
		return
	}
	if err != nil && g.ctx.Err() != nil {
		return // do answers
	}
	if err != nil {
		for _, r := range list {
			r.err = fmt.Errorf("write: %w", err)
			close(r.done)
		}
		return
	}
	t.settle()
	for _, r := range list {
		close(r.done)
	}
	t.announce()
}

// repeat makes a transaction until its outcome is known.
func (g *group) repeat(list []*request) (t *tx, err error) {
	for p := firstPause; ; p = pause(g.ctx, p) {
		if g.ctx.Err() != nil {
			return nil, g.ctx.Err()
		}
		if t, err = g.attempt(list); err == nil || !transient(err) {
			return t, err
		}
		if p >= maxPause {
			g.d.o.Report(fmt.Errorf("write: %w: the transaction is repeated", err))
		}
	}
}

func (g *group) attempt(list []*request) (*tx, error) {
	c, err := g.d.own.Acquire(g.ctx)
	if err != nil {
		return nil, err
	}
	defer c.Release()
	t := g.begin(c)
	for _, r := range list {
		r.reset()
	}
	if err := t.load(list); err != nil {
		return nil, err
	}
	for _, r := range list {
		if err := t.stage(r); err != nil {
			rollback(t.c)
			return nil, err
		}
	}
	b := &pgx.Batch{}
	t.flush(b)
	t.flushUnused(b)
	if err := commit(t.c, b); err != nil {
		for i := range t.placed { // the commit may be there
			p := &t.placed[i]
			if p.r.tried == nil {
				p.r.tried = make(map[int]uint64)
			}
			p.r.tried[p.put] = p.sequence
		}
		return nil, err
	}
	return t, nil
}

// tx is one transaction on streams, lanes and readers, with the rows that it has read and the changes that it writes.
type tx struct {
	g      *group
	c      *pgx.Conn
	now    wire.Time
	period int64

	heads   map[mailbox.Stream]*head
	ids     map[idKey]uint64 // known before, and of items that are staged
	cursors map[cursorKey]*cursor
	sums    map[sumKey]sum
	laneIDs map[laneKey]uint64
	laneSeq []uint64 // unused

	items   itemRows
	sent    []sentRow
	lanes   []laneRow
	readers []store.Joined

	touched map[mailbox.Stream]bool // true where items were appended
	placed  []placed
	counts  map[string]uint64
	sender  map[int64]uint64
	queued  []lanestore.Queued
	begun   []func()
}

// placed is a put that got a place.
type placed struct {
	r        *request
	put      int
	sequence uint64
}

type idKey struct {
	number uint64
	id     mailbox.ID
}

type cursorKey struct {
	number uint64
	token  wire.Token
}

// head is the row of a stream, locked.
type head struct {
	name                 mailbox.Stream
	number               uint64
	last, removed        uint64
	bytes, removedBytes  uint64
	position, time       uint64
	readers              uint64 // not fewer than there are
	made, exists, staged bool   // made by this transaction; there is such a stream; to be written
}

// cursor is the row of a reader, locked.
type cursor struct {
	known        bool // there is such a row, with what this transaction does to it
	acked, until uint64
	stored       bool // the row was there before
	staged       bool
}

func (g *group) begin(c *pgxpool.Conn) *tx {
	t := &tx{
		g: g, c: c.Conn(), heads: make(map[mailbox.Stream]*head), ids: make(map[idKey]uint64),
		cursors: make(map[cursorKey]*cursor), sums: make(map[sumKey]sum), laneIDs: make(map[laneKey]uint64),
		touched: make(map[mailbox.Stream]bool), counts: make(map[string]uint64), sender: make(map[int64]uint64),
	}
	if g.box != nil {
		t.now = g.box.now()
		t.period = g.periods.at(int64(t.now), g.box.cfg.DedupeWindow.Milliseconds())
	}
	return t
}

// lockReaders locks the rows of readers, in the order of its arguments, and returns the index of the argument with each.
const lockReaders = `SELECT t.n, s.number, t.token, r.acked, r.until FROM unnest($1::bytea[], $2::uuid[]) WITH ORDINALITY AS t(name, token, n)
	CROSS JOIN LATERAL (SELECT number FROM stream WHERE name = t.name OFFSET 0) s
	CROSS JOIN LATERAL (SELECT acked, until FROM reader WHERE stream = s.number AND token = t.token OFFSET 0 FOR UPDATE) r`

// lockOrder returns the arguments of lockReaders in the order in which all transactions lock, each reader once.
func lockOrder(n names, tokens []wire.Token) ([][]byte, [][16]byte) {
	type pair struct {
		name  string
		token wire.Token
	}
	list := make([]pair, len(tokens))
	for i, t := range tokens {
		list[i] = pair{string(n.of[i]), t}
	}
	slices.SortFunc(list, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.name, b.name), bytes.Compare(a.token[:], b.token[:]))
	})
	list = slices.Compact(list)
	of, ids := make([][]byte, len(list)), make([][16]byte, len(list))
	for i, p := range list {
		of[i], ids[i] = []byte(p.name), p.token
	}
	return of, ids
}

// names is the columns of a look-up by the name of a stream.
type names struct {
	list [][]byte
	of   []mailbox.Stream
}

func (n *names) add(s mailbox.Stream) {
	n.list, n.of = append(n.list, []byte(s)), append(n.of, s)
}

// load locks the rows of the streams and reads what the requests need, in one round trip. Statements after the lock see
// the transactions that were committed before the lock was granted.
func (t *tx) load(list []*request) error {
	var made, touched = make(map[mailbox.Stream]bool), make(map[mailbox.Stream]bool)
	var ids, cursors, sums names
	var idList []mailbox.ID
	var tokens []wire.Token
	var senders []int64
	var queue []lanestore.Item
	readers := func(s mailbox.Stream, join, leave []wire.Token) {
		touched[s] = true
		made[s] = made[s] || len(join) > 0
		for _, r := range slices.Concat(join, leave) {
			cursors.add(s)
			tokens = append(tokens, r)
		}
	}
	for _, r := range list {
		for i := range r.puts {
			p := &r.puts[i]
			if r.checked[i] {
				continue
			}
			readers(p.Stream, p.Join, p.Leave)
			ids.add(p.Stream)
			idList = append(idList, p.ID)
			if p.Sender != "" {
				sums.add(p.Stream)
				senders = append(senders, senderTag(p.Sender))
			}
		}
		if r.change != nil {
			readers(r.change.stream, r.change.join, r.change.leave)
		}
		queue = append(queue, r.queue...)
	}
	// The LATERAL queries with OFFSET 0 fix the plan: each element is looked up by an index, whatever the statistics say.
	maps.DeleteFunc(made, func(_ mailbox.Stream, v bool) bool { return !v })
	b := begin(false)
	if len(made) > 0 {
		b.Queue("INSERT INTO stream (name) SELECT unnest($1::bytea[]) ON CONFLICT DO NOTHING RETURNING name", sorted(made)).Query(func(rows pgx.Rows) error {
			return each(rows, nil, func(rows pgx.Rows) error {
				var name []byte
				err := rows.Scan(&name)
				t.heads[mailbox.Stream(name)] = &head{made: true}
				return err
			})
		})
	}
	if len(touched) > 0 {
		b.Queue(`SELECT name, number, last, removed, bytes, removed_bytes, position, time, readers FROM stream
			WHERE name = ANY($1::bytea[]) ORDER BY number FOR NO KEY UPDATE`, sorted(touched)).Query(t.loadHeads)
	}
	if len(idList) > 0 {
		b.Queue(`SELECT s.number, t.id, k.seq FROM unnest($1::bytea[], $2::uuid[]) AS t(name, id)
			CROSS JOIN LATERAL (SELECT number FROM stream WHERE name = t.name OFFSET 0) s
			CROSS JOIN LATERAL (SELECT seq FROM item_id WHERE stream = s.number AND id = t.id AND period >= $3 OFFSET 0) k`,
			ids.list, uuids(idList), t.period-1).Query(func(rows pgx.Rows) error {
			return each(rows, nil, func(rows pgx.Rows) error {
				var number, sequence uint64
				var id [16]byte
				err := rows.Scan(&number, &id, &sequence)
				t.ids[idKey{number, id}] = sequence
				return err
			})
		})
	}
	if len(tokens) > 0 {
		list, of := lockOrder(cursors, tokens)
		b.Queue(lockReaders, list, of).Query(func(rows pgx.Rows) error {
			return each(rows, nil, func(rows pgx.Rows) error {
				var k cursorKey
				c := &cursor{known: true, stored: true}
				err := rows.Scan(nil, &k.number, (*[16]byte)(&k.token), &c.acked, &c.until)
				t.cursors[k] = c
				return err
			})
		})
	}
	if len(senders) > 0 {
		t.loadSums(b, sums, senders)
	}
	if len(queue) > 0 {
		t.loadLanes(b, queue)
	}
	if err := send(t.c, b); err != nil {
		return err
	}
	for s := range made {
		if h := t.heads[s]; h == nil || h.number == 0 {
			rollback(t.c)
			return fmt.Errorf("%s was removed meanwhile: %w", s, errAgain)
		}
	}
	return nil
}

// refusal reports whether an error is the answer to a request, and not one of the database.
func refusal(err error) bool {
	var e *wire.Error
	return errors.As(err, &e)
}

// errAgain is wrapped by the error of a transaction that has to be repeated.
var errAgain = errors.New("conflict")

func (t *tx) loadHeads(rows pgx.Rows) error {
	return each(rows, nil, func(rows pgx.Rows) error {
		var name []byte
		var h head
		err := rows.Scan(&name, &h.number, &h.last, &h.removed, &h.bytes, &h.removedBytes, &h.position, &h.time, &h.readers)
		h.name = mailbox.Stream(name)
		h.made = t.heads[h.name] != nil
		h.exists = !h.made
		t.heads[h.name] = &h
		return err
	})
}

func sorted(set map[mailbox.Stream]bool) [][]byte {
	var list [][]byte
	for _, s := range slices.Sorted(maps.Keys(set)) {
		list = append(list, []byte(s))
	}
	return list
}

// uuids returns sixteen bytes of each element as pgx wants them.
func uuids[T ~[16]byte](list []T) [][16]byte {
	out := make([][16]byte, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// stage decides on one request. An error is one of the database.
func (t *tx) stage(r *request) error {
	for i := range r.puts {
		if r.checked[i] {
			continue
		}
		if err := t.stagePut(r, i); err != nil {
			return err
		}
	}
	if r.change != nil {
		if r.err = t.stageChange(r.change); r.err != nil && !refusal(r.err) {
			return r.err
		}
	}
	t.readers = append(t.readers, r.readers...)
	return t.stageQueue(r)
}

func (t *tx) stagePut(r *request, i int) error {
	p := &r.puts[i]
	res := &r.results[i]
	res.Sequence, res.Duplicate, res.Err = t.put(p)
	switch {
	case res.Err != nil && !refusal(res.Err):
		return res.Err
	case res.Err != nil:
	case res.Duplicate && res.Sequence != 0 && r.tried[i] == res.Sequence:
		res.Duplicate = false // the outcome of an earlier transaction of this request
		t.touched[p.Stream] = true
	case !res.Duplicate:
		t.placed = append(t.placed, placed{r: r, put: i, sequence: res.Sequence})
	}
	return nil
}

// settle publishes the durable state, before the callers are answered.
func (t *tx) settle() {
	if m := t.g.box; m != nil {
		for what, n := range t.counts {
			m.cfg.Count(what, n)
		}
		for sender, n := range t.sender {
			m.senders.Add(sender, n)
		}
		for s, appended := range t.touched {
			if h := t.heads[s]; !appended || h.readers == 0 { // a reader has left, or nobody reads what came
				m.dirty.add(s)
			}
		}
	}
	if len(t.queued) > 0 {
		t.begun = t.g.d.lanes.outbox.Show(t.queued)
	}
}

// announce starts what follows from the transaction, after the callers are answered.
func (t *tx) announce() {
	for s, appended := range t.touched {
		if appended {
			t.g.box.watchers.Wake(s)
		}
	}
	for _, work := range t.begun {
		go work()
	}
}

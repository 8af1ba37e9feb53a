package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// bound is the range of a number, duration or size. The bounds have the format of the file.
type bound struct {
	key, least, most string
	// zero is the meaning of 0 if least is above 0; "" refuses 0.
	zero string
}

// The meaning of 0.
const (
	zeroDefault = "the default"
	zeroNone    = "no limit"
)

// bounds has a row for each key that holds a number, a duration or a size; a test compares it with the structure.
var bounds = []bound{
	{key: "postgres.connections", least: "4", most: "1000", zero: zeroDefault},  // two of them only write
	{key: "gateway.max_frame", least: "1MiB", most: "64MiB", zero: zeroDefault}, // an entry has to fit (wire.MaxEntry)
	{key: "gateway.window", least: "1", most: "65536", zero: zeroDefault},
	{key: "gateway.requests", least: "1", most: "4096", zero: zeroDefault},
	{key: "gateway.held_per_user", least: "1MiB", most: "1024GiB", zero: zeroDefault},
	{key: "gateway.held_per_session", least: "1MiB", most: "64GiB", zero: zeroDefault},
	{key: "gateway.overloads", least: "1", most: "1048576", zero: zeroDefault},
	{key: "gateway.sessions", least: "1", most: "10000000", zero: zeroDefault},
	{key: "gateway.sessions_per_device", least: "1", most: "1048576", zero: zeroDefault},
	{key: "gateway.sessions_per_address", least: "1", most: "10000000", zero: zeroDefault},
	{key: "gateway.connections_per_second", least: "0.1", most: "10000000", zero: zeroDefault},
	{key: "gateway.enrolments_per_minute", least: "1", most: "1000000000", zero: zeroDefault},
	{key: "gateway.frames_per_second", least: "1", most: "1000000", zero: zeroDefault},
	{key: "gateway.bytes_per_second", least: "64KiB", most: "64GiB", zero: zeroDefault},
	{key: "gateway.fragments", least: "1", most: "1048576", zero: zeroDefault},
	{key: "gateway.login_frames", least: "1", most: "1024", zero: zeroDefault},
	{key: "gateway.http_requests_per_second", least: "0.1", most: "10000000", zero: zeroDefault},
	{key: "gateway.login_timeout", least: "1s", most: "10m", zero: zeroDefault},
	{key: "gateway.ping", least: "1s", most: "1h", zero: zeroDefault},
	{key: "gateway.strangers.unproved", least: "4", most: "1048576", zero: zeroDefault},
	{key: "gateway.strangers.failures", least: "1", most: "1048576", zero: zeroDefault},
	{key: "gateway.strangers.failures_per_minute", least: "0.1", most: "1000000", zero: zeroDefault},
	{key: "gateway.strangers.shut_first", least: "10ms", most: "1h", zero: zeroDefault},
	{key: "gateway.strangers.shut_last", least: "10ms", most: "24h", zero: zeroDefault},
	{key: "gateway.strangers.slowed_per_second", least: "0.1", most: "100000", zero: zeroDefault},
	{key: "federation.call_timeout", least: "100ms", most: "10m", zero: zeroDefault},
	{key: "federation.calls_per_second", least: "1", most: "1000000", zero: zeroDefault},
	{key: "federation.bytes_per_second", least: "64KiB", most: "64GiB", zero: zeroDefault},
	{key: "federation.outbox_expire", least: "1s", most: "366d", zero: zeroDefault},
	{key: "federation.outbox_items", least: "1", most: "1000000000", zero: zeroDefault},
	{key: "federation.outbox_bytes", least: "1MiB", most: "65536GiB", zero: zeroDefault},
	{key: "federation.outbox_shares", least: "1", most: "1048576", zero: zeroDefault}, // 1: one user may use the whole queue
	{key: "federation.outbox_share_for", least: "1s", most: "366d", zero: zeroDefault},
	{key: "federation.strangers.unproved", least: "4", most: "1048576", zero: zeroDefault},
	{key: "federation.strangers.failures", least: "1", most: "1048576", zero: zeroDefault},
	{key: "federation.strangers.failures_per_minute", least: "0.1", most: "1000000", zero: zeroDefault},
	{key: "federation.strangers.shut_first", least: "10ms", most: "1h", zero: zeroDefault},
	{key: "federation.strangers.shut_last", least: "10ms", most: "24h", zero: zeroDefault},
	{key: "federation.strangers.slowed_per_second", least: "0.1", most: "100000", zero: zeroDefault},
	{key: "consensus.sleep", least: "100ms", most: "24h", zero: zeroDefault},
	{key: "consensus.heartbeat", least: "10ms", most: "10m", zero: zeroDefault}, // a shorter interval leaves no time for other work
	{key: "consensus.election", least: "10ms", most: "10m", zero: zeroDefault},
	{key: "consensus.silence", least: "10ms", most: "10m", zero: zeroDefault},
	{key: "consensus.stall", least: "10ms", most: "10m", zero: zeroDefault},
	{key: "consensus.conversations", least: "1", most: "100000000", zero: zeroNone},
	{key: "consensus.conversations_per_organization", least: "1", most: "100000000", zero: zeroNone},
	{key: "consensus.submissions", least: "1", most: "1048576", zero: zeroDefault},
	{key: "consensus.farewell", least: "1s", most: "24h", zero: zeroDefault},
	{key: "consensus.ahead", least: "1s", most: "24h", zero: zeroDefault},           // the most by which one entry moves a log's clock
	{key: "consensus.term_jump", least: "1", most: "4294967296", zero: zeroDefault}, // a larger growth of terms would end a conversation
	{key: "consensus.upsets", least: "1", most: "1048576", zero: zeroDefault},
	{key: "consensus.upset", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.terms", least: "1", most: "1048576", zero: zeroDefault},
	{key: "consensus.term", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.claim", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.wake", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.wakes", least: "1", most: "1048576", zero: zeroDefault},
	{key: "consensus.invites", least: "1", most: "1048576", zero: zeroDefault},
	{key: "consensus.invite", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.compare", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.lost", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.idle", least: "10ms", most: "30d", zero: zeroDefault},
	{key: "consensus.unowned", least: "1s", most: "30d", zero: zeroDefault},
	{key: "consensus.recent_bytes", least: "2MiB", most: "1GiB", zero: zeroDefault}, // kept without a value in the policy (consensus/machine)
	{key: "consensus.recent_entries", least: "256", most: "1048576", zero: zeroDefault},
	{key: "consensus.organizations", least: "1", most: "256", zero: zeroDefault}, // each holds a replica: wire.MaxReplicas in an entry
	{key: "consensus.commit", least: "1MiB", most: "256MiB", zero: zeroDefault},  // an entry takes less; a blob has no more (wire.MaxBlob)
	{key: "consensus.memory", least: "1MiB", most: "1024GiB", zero: zeroDefault},
	{key: "mailbox.items", least: "1", most: "1000000000", zero: zeroDefault},
	{key: "mailbox.bytes", least: "1MiB", most: "65536GiB", zero: zeroDefault},
	{key: "mailbox.organization", least: "1MiB", most: "1048576GiB", zero: zeroNone},
	{key: "mailbox.age", least: "1s", most: "3660d", zero: zeroDefault},
	{key: "mailbox.past_epochs", least: "2", most: "65536"}, // about a hundred bytes each, of each conversation
	{key: "directory.devices", least: "1", most: "4096", zero: zeroDefault},
	{key: "directory.certificate_life", least: "1h", most: "3660d", zero: zeroDefault},
	{key: "directory.renew_before", least: "1m", most: "3660d", zero: zeroDefault},
	{key: "directory.renew_after", least: "1m", most: "3660d", zero: "never"},
	{key: "directory.invitation_life", least: "1m", most: "366d", zero: zeroDefault},
	{key: "directory.key_packages", least: "1", most: "10000", zero: zeroDefault},
	{key: "directory.low_water", least: "1", most: "10000", zero: zeroDefault},
	// The product of a burst and a pause is a time that a node can count.
	{key: "directory.claim_burst", least: "1", most: "1048576", zero: zeroDefault},
	{key: "directory.claim_every", least: "1ms", most: "1h", zero: zeroDefault},
	{key: "directory.claim_pair_burst", least: "1", most: "1048576", zero: zeroDefault},
	{key: "directory.claim_pair_every", least: "1ms", most: "1h", zero: zeroDefault},
	{key: "directory.claim_user_burst", least: "1", most: "1048576", zero: zeroDefault},
	{key: "directory.claim_user_every", least: "1ms", most: "1h", zero: zeroDefault},
	{key: "directory.address_burst", least: "1", most: "1048576", zero: zeroDefault},
	{key: "directory.address_every", least: "1ms", most: "1h", zero: zeroDefault},
	{key: "directory.last_resort_burst", least: "1", most: "1048576", zero: zeroDefault},
	{key: "directory.last_resort_every", least: "1ms", most: "1h", zero: zeroDefault},
	{key: "files.file", least: "1KiB", most: "1024GiB", zero: zeroDefault},
	{key: "files.total", least: "1MiB", most: "1048576GiB", zero: zeroDefault},
	{key: "files.age", least: "1s", most: "3660d", zero: zeroDefault},
	{key: "clock.tolerance", least: "1s", most: "1h", zero: zeroDefault},
	{key: "clock.confirm", least: "1s", most: "30d", zero: zeroDefault},
	{key: "clock.downtime", least: "1s", most: "3660d", zero: zeroDefault},
	{key: "quota.uploads", least: "64KiB", most: "1048576GiB", zero: zeroNone},
	{key: "quota.device", least: "64KiB", most: "1048576GiB", zero: zeroNone},
	{key: "quota.user", least: "64KiB", most: "1048576GiB", zero: zeroNone},
	{key: "quota.memory", least: "4MiB", most: "65536GiB", zero: zeroNone}, // at least twice consensus.recent_bytes, see validatePairs
	{key: "quota.organization", least: "64KiB", most: "1048576GiB", zero: zeroNone},
	{key: "quota.reserve", least: "1MiB", most: "65536GiB", zero: "none"},
	{key: "quota.reserve_percent", least: "0", most: "90"},
	{key: "quota.conversations_per_user", least: "1", most: "100000000", zero: zeroNone},
	{key: "oidc.flows", least: "1", most: "65536", zero: zeroDefault},
	{key: "audit.size", least: "4KiB", most: "64GiB", zero: zeroDefault},
	{key: "audit.files", least: "1", most: "1000000", zero: "all"},
	{key: "rates.conversations.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.conversations.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
	{key: "rates.codes.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.codes.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
	{key: "rates.handshakes.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.handshakes.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
	{key: "rates.conversation_handshakes.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.conversation_handshakes.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
	{key: "rates.organization_handshakes.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.organization_handshakes.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
	{key: "rates.invitations.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.invitations.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
	{key: "rates.calls.burst", least: "1", most: "1048576", zero: zeroNone},
	{key: "rates.calls.per_minute", least: "0.01", most: "60000000", zero: zeroNone},
}

// leaves calls do for every key with a value, as "section.key".
func leaves(c *Config, do func(key string, value reflect.Value)) {
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		for i := range v.NumField() {
			key := path + v.Type().Field(i).Tag.Get("yaml")
			if f := v.Field(i); f.Kind() == reflect.Struct {
				walk(key+".", f)
			} else {
				do(key, f)
			}
		}
	}
	walk("", reflect.ValueOf(c).Elem())
}

// validateBounds reports each value that is outside of its bounds.
func (c *Config) validateBounds(fault func(key, format string, args ...any)) {
	by := make(map[string]bound, len(bounds))
	for _, b := range bounds {
		by[b.key] = b
	}
	leaves(c, func(key string, v reflect.Value) {
		b, ok := by[key]
		if !ok {
			return
		}
		value := number(v)
		if value == 0 && b.zero != "" {
			return
		}
		// The negated form refuses NaN too.
		if !(value >= b.parse(v.Type(), b.least) && value <= b.parse(v.Type(), b.most)) {
			or := ""
			if b.zero != "" {
				or = fmt.Sprintf(", or 0 for %s", b.zero)
			}
			fault(key, "%s, wanted %s to %s%s", written(v), b.least, b.most, or)
		}
	})
}

// fillZeros sets each key whose 0 means the default to the value of the annotated example: the parts of a node have
// their own defaults, for programs that embed them.
func (c *Config) fillZeros() {
	zero := make(map[string]bool)
	for _, b := range bounds {
		zero[b.key] = b.zero == zeroDefault
	}
	usual := make(map[string]reflect.Value)
	leaves(Default(), func(key string, v reflect.Value) { usual[key] = v })
	leaves(c, func(key string, v reflect.Value) {
		if zero[key] && v.IsZero() {
			v.Set(usual[key])
		}
	})
}

// number returns a value as a number: of nanoseconds for a duration, of bytes for a size.
func number(v reflect.Value) float64 {
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	}
	return v.Float()
}

// written returns a value in the format of the file.
func written(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Duration:
		return x.Std().String()
	case Size:
		return x.String()
	}
	return fmt.Sprint(v.Interface())
}

// parse reads a bound of a key of type t.
func (b bound) parse(t reflect.Type, text string) float64 {
	var err error
	var value float64
	switch t {
	case reflect.TypeFor[Duration]():
		var d Duration
		err = d.parse(text)
		value = float64(d)
	case reflect.TypeFor[Size]():
		var s Size
		err = s.parse(text)
		value = float64(s)
	default:
		value, err = strconv.ParseFloat(strings.TrimSpace(text), 64)
	}
	if err != nil {
		panic(fmt.Sprintf("config: the bounds of %s: %v", b.key, err)) // a test reads each row
	}
	return value
}

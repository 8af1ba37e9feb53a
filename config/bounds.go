package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// bound is the range of a number, duration or size. The bounds are written as the file writes values.
type bound struct {
	key, least, most string
	// zero is what 0 means where least is above it; "" refuses 0.
	zero string
}

// What 0 means.
const (
	zeroDefault = "the default"
	zeroNone    = "no limit"
)

// bounds has a row for each key that holds a number, a duration or a size; a test holds it against the structure.
var bounds = []bound{
	{"gateway.max_frame", "1MiB", "64MiB", zeroDefault}, // an entry has to fit (wire.MaxEntry)
	{"gateway.window", "1", "65536", zeroDefault},
	{"gateway.requests", "1", "4096", zeroDefault},
	{"gateway.sessions", "1", "10000000", zeroDefault},
	{"gateway.sessions_per_address", "1", "10000000", zeroDefault},
	{"gateway.connections_per_second", "0.1", "10000000", zeroDefault},
	{"gateway.enrolments_per_minute", "1", "1000000000", zeroDefault},
	{"gateway.frames_per_second", "1", "1000000", zeroDefault},
	{"gateway.bytes_per_second", "64KiB", "64GiB", zeroDefault},
	{"gateway.fragments", "1", "1048576", zeroDefault},
	{"gateway.login_frames", "1", "1024", zeroDefault},
	{"gateway.http_requests_per_second", "0.1", "10000000", zeroDefault},
	{"gateway.login_timeout", "1s", "10m", zeroDefault},
	{"gateway.ping", "1s", "1h", zeroDefault},
	{"gateway.strangers.unproved", "4", "1048576", zeroDefault},
	{"gateway.strangers.failures", "1", "1048576", zeroDefault},
	{"gateway.strangers.failures_per_minute", "0.1", "1000000", zeroDefault},
	{"gateway.strangers.shut_first", "10ms", "1h", zeroDefault},
	{"gateway.strangers.shut_last", "10ms", "24h", zeroDefault},
	{"gateway.strangers.slowed_per_second", "0.1", "100000", zeroDefault},
	{"federation.call_timeout", "100ms", "10m", zeroDefault},
	{"federation.calls_per_second", "1", "1000000", zeroDefault},
	{"federation.bytes_per_second", "64KiB", "64GiB", zeroDefault},
	{"federation.outbox_expire", "1s", "366d", zeroDefault},
	{"federation.outbox_items", "1", "1000000000", zeroDefault},
	{"federation.outbox_bytes", "1MiB", "65536GiB", zeroDefault},
	{"federation.strangers.unproved", "4", "1048576", zeroDefault},
	{"federation.strangers.failures", "1", "1048576", zeroDefault},
	{"federation.strangers.failures_per_minute", "0.1", "1000000", zeroDefault},
	{"federation.strangers.shut_first", "10ms", "1h", zeroDefault},
	{"federation.strangers.shut_last", "10ms", "24h", zeroDefault},
	{"federation.strangers.slowed_per_second", "0.1", "100000", zeroDefault},
	{"consensus.sleep", "100ms", "24h", zeroDefault},
	{"consensus.heartbeat", "10ms", "10m", zeroDefault}, // a shorter pulse leaves time for nothing else
	{"consensus.election", "10ms", "10m", zeroDefault},
	{"consensus.silence", "10ms", "10m", zeroDefault},
	{"consensus.stall", "10ms", "10m", zeroDefault},
	{"consensus.conversations", "1", "100000000", zeroNone},
	{"consensus.conversations_per_organization", "1", "100000000", zeroNone},
	{"consensus.submissions", "1", "1048576", zeroDefault},
	{"consensus.farewell", "1s", "24h", zeroDefault},
	{"consensus.ahead", "1s", "24h", zeroDefault},           // what one entry moves a log's clock by, at most
	{"consensus.term_jump", "1", "4294967296", zeroDefault}, // terms that grow by more would end a conversation
	{"consensus.claim", "10ms", "30d", zeroDefault},
	{"consensus.wake", "10ms", "30d", zeroDefault},
	{"consensus.wakes", "1", "1048576", zeroDefault},
	{"consensus.invites", "1", "1048576", zeroDefault},
	{"consensus.invite", "10ms", "30d", zeroDefault},
	{"consensus.compare", "10ms", "30d", zeroDefault},
	{"consensus.lost", "10ms", "30d", zeroDefault},
	{"consensus.idle", "10ms", "30d", zeroDefault},
	{"consensus.unowned", "1s", "30d", zeroDefault},
	{"consensus.recent_bytes", "2MiB", "1GiB", zeroDefault}, // what a conversation keeps whose policy says nothing (consensus/machine)
	{"consensus.recent_entries", "256", "1048576", zeroDefault},
	{"consensus.organizations", "1", "256", zeroDefault}, // each holds a replica, and an entry names so many (wire.MaxReplicas)
	{"consensus.memory", "1MiB", "1024GiB", zeroDefault},
	{"mailbox.items", "1", "1000000000", zeroDefault},
	{"mailbox.bytes", "1MiB", "65536GiB", zeroDefault},
	{"mailbox.organization", "1MiB", "1048576GiB", zeroNone},
	{"mailbox.age", "1s", "3660d", zeroDefault},
	{"mailbox.past_epochs", "2", "65536", ""}, // about a hundred bytes each, of each conversation
	{"directory.devices", "1", "4096", zeroDefault},
	{"directory.certificate_life", "1h", "3660d", zeroDefault},
	{"directory.renew_before", "1m", "3660d", zeroDefault},
	{"directory.renew_after", "1m", "3660d", "never"},
	{"directory.invitation_life", "1m", "366d", zeroDefault},
	{"directory.key_packages", "1", "10000", zeroDefault},
	{"directory.low_water", "1", "10000", zeroDefault},
	// The product of a burst and a pause is a time that a node can count.
	{"directory.claim_burst", "1", "1048576", zeroDefault},
	{"directory.claim_every", "1ms", "1h", zeroDefault},
	{"directory.claim_pair_burst", "1", "1048576", zeroDefault},
	{"directory.claim_pair_every", "1ms", "1h", zeroDefault},
	{"directory.claim_user_burst", "1", "1048576", zeroDefault},
	{"directory.claim_user_every", "1ms", "1h", zeroDefault},
	{"directory.last_resort_burst", "1", "1048576", zeroDefault},
	{"directory.last_resort_every", "1ms", "1h", zeroDefault},
	{"files.file", "1KiB", "1024GiB", zeroDefault},
	{"files.total", "1MiB", "1048576GiB", zeroDefault},
	{"files.age", "1s", "3660d", zeroDefault},
	{"clock.tolerance", "1s", "1h", zeroDefault},
	{"clock.confirm", "1s", "30d", zeroDefault},
	{"clock.downtime", "1s", "3660d", zeroDefault},
	{"quota.uploads", "64KiB", "1048576GiB", zeroNone},
	{"quota.device", "64KiB", "1048576GiB", zeroNone},
	{"quota.user", "64KiB", "1048576GiB", zeroNone},
	{"quota.memory", "4MiB", "65536GiB", zeroNone}, // at least twice consensus.recent_bytes, see validatePairs
	{"quota.organization", "64KiB", "1048576GiB", zeroNone},
	{"quota.reserve", "1MiB", "65536GiB", "none"},
	{"quota.reserve_percent", "0", "90", ""},
	{"quota.conversations_per_user", "1", "100000000", zeroNone},
	{"oidc.flows", "1", "65536", zeroDefault},
	{"audit.size", "4KiB", "64GiB", zeroDefault},
	{"audit.files", "1", "1000000", "all"},
	{"rates.conversations.burst", "1", "1048576", zeroNone},
	{"rates.conversations.per_minute", "0.01", "60000000", zeroNone},
	{"rates.codes.burst", "1", "1048576", zeroNone},
	{"rates.codes.per_minute", "0.01", "60000000", zeroNone},
	{"rates.handshakes.burst", "1", "1048576", zeroNone},
	{"rates.handshakes.per_minute", "0.01", "60000000", zeroNone},
	{"rates.conversation_handshakes.burst", "1", "1048576", zeroNone},
	{"rates.conversation_handshakes.per_minute", "0.01", "60000000", zeroNone},
	{"rates.organization_handshakes.burst", "1", "1048576", zeroNone},
	{"rates.organization_handshakes.per_minute", "0.01", "60000000", zeroNone},
	{"rates.invitations.burst", "1", "1048576", zeroNone},
	{"rates.invitations.per_minute", "0.01", "60000000", zeroNone},
}

// leaves calls do with every key that holds a value, as "section.key".
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

// fillZeros sets each key that is 0 for the default to what the annotated example says: the parts of a node have
// defaults of their own, for those who embed them.
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

// number is a value as a number: of nanoseconds for a duration, of bytes for a size.
func number(v reflect.Value) float64 {
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	}
	return v.Float()
}

// written is a value as the file writes it.
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

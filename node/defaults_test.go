package node

import (
	"reflect"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/federation/outbox"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/clock"
	"github.com/mlsfed/mlsfed/mailbox"
	"github.com/mlsfed/mlsfed/store/postgres"
)

// settings returns what a configuration sets for each part.
func settings(c *config.Config) map[string]any {
	limits, timers := federationLimits(&c.Federation)
	orderTimers, orders := orderLimits(c)
	return map[string]any{
		"gateway": gatewayLimits(&c.Gateway), "federation limits": limits, "federation timers": timers, "outbox": outboxLimits(&c.Federation),
		"directory": directoryLimits(&c.Directory), "mailbox": mailboxLimits(&c.Mailbox), "clock": clockLimits(&c.Clock),
		"consensus timers": orderTimers, "consensus limits": orders, "audit": auditLimits(&c.Audit), "postgres": PostgresOptions(c, nil),
	}
}

// TestOneSourceOfDefaults checks that 'mlsfed init' writes the defaults of the parts. The documents are compared with
// the configuration too, so all three agree.
func TestOneSourceOfDefaults(t *testing.T) {
	limits, timers := federation.Defaults()
	orderTimers, orders := consensus.Defaults()
	defaults := map[string]any{
		"gateway": gateway.Defaults(), "federation limits": limits, "federation timers": timers, "outbox": outbox.Defaults(),
		"directory": directory.Defaults(), "mailbox": mailbox.Defaults(), "clock": clock.Defaults(),
		"consensus timers": orderTimers, "consensus limits": orders, "audit": audit.Defaults(), "postgres": postgres.Defaults(),
	}
	for name, set := range settings(config.Default()) {
		if compared := sameDefaults(t, name, reflect.ValueOf(set), reflect.ValueOf(defaults[name])); compared == 0 {
			t.Errorf("%s: nothing was compared", name)
		}
	}
}

// numbersOfTheNode lists the keys of numbers for which no part has a default: the configuration is their only source.
var numbersOfTheNode = []string{
	"files.age", "files.file", "files.total", "mailbox.past_epochs", "oidc.flows",
	"quota.conversations_per_user", "quota.device", "quota.organization", "quota.reserve", "quota.reserve_percent", "quota.uploads", "quota.user",
	"rates.calls.burst", "rates.calls.per_minute", "rates.codes.burst", "rates.codes.per_minute", "rates.conversation_handshakes.burst", "rates.conversation_handshakes.per_minute",
	"rates.conversations.burst", "rates.conversations.per_minute", "rates.handshakes.burst", "rates.handshakes.per_minute",
	"rates.invitations.burst", "rates.invitations.per_minute", "rates.organization_handshakes.burst", "rates.organization_handshakes.per_minute",
}

// TestEveryNumberIsCompared checks that each number of the configuration reaches a part whose default is compared with
// it, or is a number of the node alone.
func TestEveryNumberIsCompared(t *testing.T) {
	usual := settings(config.Default())
	numbers := 0
	eachNumber(reflect.ValueOf(config.Default()).Elem(), "", func(key string, index [][]int) {
		numbers++
		c := config.Default()
		v := reflect.ValueOf(c).Elem()
		for _, i := range index {
			v = v.FieldByIndex(i)
		}
		switch {
		case v.CanInt():
			v.SetInt(3*v.Int() + 7_000_000_000)
		case v.CanUint():
			v.SetUint(3*v.Uint() + 7_000_000_000)
		default:
			v.SetFloat(3*v.Float() + 7_000_000)
		}
		reaches := !reflect.DeepEqual(settings(c), usual)
		if own := slices.Contains(numbersOfTheNode, key); reaches == own {
			t.Errorf("%s reaches a part with a default: %t; listed as a number of the node: %t", key, reaches, own)
		}
	})
	if numbers < len(numbersOfTheNode) || numbers < 90 {
		t.Errorf("%d numbers were looked at", numbers)
	}
}

// eachNumber calls do with each field of a configuration that holds a number, by its key.
func eachNumber(v reflect.Value, path string, do func(key string, index [][]int)) {
	var walk func(v reflect.Value, path string, index [][]int)
	walk = func(v reflect.Value, path string, index [][]int) {
		for i := range v.NumField() {
			key, at := path+v.Type().Field(i).Tag.Get("yaml"), append(slices.Clone(index), []int{i})
			switch f := v.Field(i); {
			case f.Kind() == reflect.Struct:
				walk(f, key+".", at)
			case f.CanInt(), f.CanUint(), f.CanFloat():
				do(key, at)
			}
		}
	}
	walk(v, path, nil)
}

// sameDefaults compares the values of the configuration with the defaults of a part.
func sameDefaults(t *testing.T, name string, set, part reflect.Value) (compared int) {
	t.Helper()
	for i := range set.NumField() {
		f, at := set.Field(i), name+"."+set.Type().Field(i).Name
		switch {
		case f.IsZero() || !f.CanInterface():
		case f.Kind() == reflect.Struct:
			compared += sameDefaults(t, at, f, part.Field(i))
		default:
			compared++
			if !reflect.DeepEqual(f.Interface(), part.Field(i).Interface()) {
				t.Errorf("%s: the configuration sets %v, the part's own default is %v", at, f, part.Field(i))
			}
		}
	}
	return compared
}

// TestNoLimitIsNone checks that where 0 means no limit, no part replaces 0 by a limit of its own.
func TestNoLimitIsNone(t *testing.T) {
	c := config.Default()
	c.Consensus.PerOrganization, c.Consensus.Conversations, c.Quota.Memory = 0, 0, 0
	if _, l := orderLimits(c); l.PerOrganization < 1<<40 || l.Conversations != 0 || l.Awake < 1<<40 {
		t.Errorf("limits %+v", l)
	}
}

package node

import (
	"reflect"
	"testing"

	"github.com/mlsfed/mlsfed/clock"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/directory"
	"github.com/mlsfed/mlsfed/federation"
	"github.com/mlsfed/mlsfed/gateway"
	"github.com/mlsfed/mlsfed/mailbox"
)

// TestOneSourceOfDefaults: what 'mlsfed init' writes is what the parts take by themselves, and so what the documents
// say, which are compared with the parts.
func TestOneSourceOfDefaults(t *testing.T) {
	c := config.Default()
	limits, timers, outbox := federation.Defaults()
	ownLimits, ownTimers := federationLimits(&c.Federation)
	consensusTimers, consensusLimits := consensus.Defaults()
	orderTimers, orderLimits := orderLimits(&c.Consensus)
	for name, p := range map[string][2]any{
		"gateway":           {gatewayLimits(&c.Gateway), gateway.Defaults()},
		"federation limits": {ownLimits, limits}, "federation timers": {ownTimers, timers},
		"directory": {directoryLimits(&c.Directory), directory.Defaults()}, "mailbox": {mailboxLimits(&c.Mailbox), mailbox.Defaults()},
		"clock": {clockLimits(&c.Clock), clock.Defaults()}, "consensus timers": {orderTimers, consensusTimers}, "consensus limits": {orderLimits, consensusLimits},
		"outbox": {outboxLimits(&c.Federation), outbox},
	} {
		if compared := sameDefaults(t, name, reflect.ValueOf(p[0]), reflect.ValueOf(p[1])); compared == 0 {
			t.Errorf("%s: nothing was compared", name)
		}
	}
}

// sameDefaults compares what the configuration sets with what a part takes by itself.
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

// TestNoLimitIsNone: where 0 is no limit, no part has a limit of its own for it.
func TestNoLimitIsNone(t *testing.T) {
	c := config.Default()
	c.Consensus.PerOrganization, c.Consensus.Conversations = 0, 0
	if _, l := orderLimits(&c.Consensus); l.PerOrganization < 1<<40 || l.Conversations != 0 {
		t.Errorf("limits %+v", l)
	}
}

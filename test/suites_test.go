package test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestSuitesOverTheNetwork checks that devices of each cipher suite, post-quantum ones included, enrol with a
// certificate over a key of its signature scheme, log in with that key, add and remove each other across
// organizations, talk and rotate their keys.
func TestSuitesOverTheNetwork(t *testing.T) {
	suites := []mlscore.CipherSuite{mlscore.MLS256X448AES256Ed448, mlscore.MLS128MLKEM768X25519AES128Ed25519.Earlier(), mlscore.MLS256MLKEM1024AES256MLDSA87.Earlier()}
	if os.Getenv("MLSFED_LONG") != "" {
		suites = mlscore.EarlierSuites()
	} else {
		t.Logf("%d of 18 suites; MLSFED_LONG=short tries all", len(suites))
	}
	for _, suite := range suites {
		t.Run(fmt.Sprintf("0x%04x", uint16(suite)), func(t *testing.T) { talkIn(t, suite) })
	}
}

func talkIn(t *testing.T, suite mlscore.CipherSuite) {
	domains := []wire.Domain{"a.example", "b.example"}
	c := newClusterIn(t, t.TempDir(), cluster.Options{Client: func(o *client.Options) { o.Suite, o.Limits.KeyPackages = suite, 10 }}, domains...)
	id, list := gather(t, c, domains, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for who, d := range list {
		if err := d.UpdateKeys(ctx, id); err != nil {
			t.Fatal(err)
		}
		if _, err := d.SendText(ctx, id, numbered(who, 0)); err != nil {
			t.Fatal(err)
		}
	}
	agree(t, id, list, []int{1, 1})
	carol := device(t, c, "b.example", "carol", "phone")
	add(ctx, t, list[0], id, "mimi://b.example/u/carol")
	if err := cluster.Await(ctx, carol, func() (bool, error) {
		m, err := carol.Members(ctx, id)
		return len(m) == 3, ignore(err, wire.UnknownConversation)
	}); err != nil {
		t.Fatal(err)
	}
	v, err := carol.Conversation(ctx, id)
	if err != nil || v.Suite != suite {
		t.Fatalf("carol is in a group of %v: %v", v.Suite, err)
	}
	if err := list[0].Remove(ctx, id, "mimi://b.example/u/carol"); err != nil {
		t.Fatal(err)
	}
	for who, d := range list {
		if _, err := d.SendText(ctx, id, numbered(who, 1)); err != nil {
			t.Fatal(err)
		}
	}
	agree(t, id, list, []int{2, 2})
}

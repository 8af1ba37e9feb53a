package client

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/mlscore"
)

// TestIntake checks that a device refuses inputs that mlscore accepts from other implementations: it uses settings
// that all devices and nodes of the network share.
func TestIntake(t *testing.T) {
	w := newWorld(t, "a.example", "b.example")
	a, b := w.peer(alicePhone).ready(), w.peer(bobPhone).ready()
	check(t, a.refreshRoots(t.Context())) // the device also does so by itself, some time after it has connected
	fresh := func(o mlscore.KeyPackageOptions) (kp *mlscore.KeyPackage, err error) {
		err = b.turn(t.Context(), func(*unit) (err error) {
			kp, err = b.client.NewKeyPackage(b.self.identity(), o)
			return err
		})
		return kp, err
	}
	for _, c := range []struct {
		name, say string
		kind      error
		change    func(*mlscore.LeafNode)
	}{
		{"a lifetime of more than 100 days", "at most 2400h0m0s", mlscore.ErrPolicy, func(l *mlscore.LeafNode) {
			l.Lifetime.NotAfter = l.Lifetime.NotBefore + uint64((maxLifetime+time.Second)/time.Second)
		}},
		{"a default extension type in the capabilities", "default extension 0x0003 is listed", mlscore.ErrInvalid, func(l *mlscore.LeafNode) {
			l.Capabilities.Extensions = append(l.Capabilities.Extensions, mlscore.ExtensionRequiredCapabilities)
		}},
		{"a default proposal type in the capabilities", "default proposal type add is listed", mlscore.ErrInvalid, func(l *mlscore.LeafNode) {
			l.Capabilities.Proposals = append(l.Capabilities.Proposals, mlscore.ProposalAdd)
		}},
		{"no protocol version in the capabilities", "protocol version 1 is not listed", mlscore.ErrInvalid, func(l *mlscore.LeafNode) {
			l.Capabilities.Versions = nil
		}},
		{"another suite in the capabilities", "is not listed", mlscore.ErrInvalid, func(l *mlscore.LeafNode) {
			l.Capabilities.CipherSuites = []mlscore.CipherSuite{mlscore.MLS128P256AES128P256}
		}},
		{"a credential of another type", "type 0xf00f", mlscore.ErrUnsupported, func(l *mlscore.LeafNode) {
			l.Credential = mlscore.Credential{Type: 0xf00f, Data: []byte("bob")}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			kp, err := fresh(mlscore.KeyPackageOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.client.VerifyKeyPackage(kp); err != nil {
				t.Fatal(err)
			}
			c.change(kp.LeafNode) // refused before the signature is checked
			if err := a.client.VerifyKeyPackage(kp); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v, want %v with %q", err, c.kind, c.say)
			}
		})
	}
	t.Run("a basic credential", func(t *testing.T) {
		stranger, err := mlscore.NewClient(mlscore.Config{Auth: mlscore.TrustBasic{}, Store: mlscore.NewMemoryStore(), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		key, _, err := mlscore.GenerateSignatureKey(nil, mlscore.MLS128X25519AES128Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		id := mlscore.Identity{CipherSuite: mlscore.MLS128X25519AES128Ed25519, Credential: mlscore.BasicCredential([]byte("bob")), SignatureKey: key}
		kp, err := stranger.NewKeyPackage(id, mlscore.KeyPackageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.client.VerifyKeyPackage(kp); !errors.Is(err, mlscore.ErrPolicy) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a lifetime that this device would make", func(t *testing.T) {
		if _, err := fresh(mlscore.KeyPackageOptions{Lifetime: maxLifetime + time.Hour}); !errors.Is(err, mlscore.ErrPolicy) {
			t.Errorf("%v", err)
		}
	})
}

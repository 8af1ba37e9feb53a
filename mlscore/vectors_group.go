package mlscore

import (
	"fmt"
	"time"
)

// passiveCase is a case of the format "Passive Client Scenarios".
type passiveCase struct {
	Suite         CipherSuite    `json:"cipher_suite"`
	PSKs          []externalPSK  `json:"external_psks"`
	KeyPackage    hexData        `json:"key_package"`
	Signature     hexData        `json:"signature_priv"`
	Encryption    hexData        `json:"encryption_priv"`
	Init          hexData        `json:"init_priv"`
	Welcome       hexData        `json:"welcome"`
	Tree          *hexData       `json:"ratchet_tree"`
	Authenticator hexData        `json:"initial_epoch_authenticator"`
	Epochs        []passiveEpoch `json:"epochs"`
}

type externalPSK struct {
	ID  hexData `json:"psk_id"`
	PSK hexData `json:"psk"`
}

// passiveEpoch is a commit with the proposals before it.
type passiveEpoch struct {
	Proposals     []hexData `json:"proposals"`
	Commit        hexData   `json:"commit"`
	Authenticator hexData   `json:"epoch_authenticator"`
}

// vectorConfig returns the Config of a client of the vectors. It trusts every credential and accepts every lifetime,
// since the vectors do not contain the time when they were made.
func vectorConfig() Config {
	return Config{
		Auth:  trustSignatureKey{},
		Store: NewMemoryStore(),
		Now:   func() time.Time { return time.Time{} },
	}
}

func (c *passiveCase) verify(s *suite) error {
	g, err := c.join(s)
	if err != nil {
		return err
	}
	if err := same("initial_epoch_authenticator", g.EpochAuthenticator(), c.Authenticator); err != nil {
		return err
	}
	for i := range c.Epochs {
		if err := c.Epochs[i].follow(g); err != nil {
			return within(fmt.Sprintf("epochs[%d]", i), ErrInvalid, err)
		}
	}
	return nil
}

// join enters the group. ImportKeyPackage compares the KeyPackage's private keys with its public ones.
func (c *passiveCase) join(s *suite) (*Group, error) {
	client, err := NewClient(vectorConfig())
	if err != nil {
		return nil, err
	}
	kp, err := ParseKeyPackage(c.KeyPackage)
	if err != nil {
		return nil, within("key_package", ErrMalformed, err)
	}
	if kp.CipherSuite != c.Suite {
		return nil, fail(ErrInvalid, "", "key_package", "is for %v", kp.CipherSuite)
	}
	if err := client.VerifyKeyPackage(kp); err != nil {
		return nil, within("key_package", ErrInvalid, err)
	}
	key := func(b []byte) Secret { return NewSecret(s.privateKeyOf(b)) }
	if err := client.ImportKeyPackage(kp, KeyPackageKeys{key(c.Init), key(c.Encryption), key(c.Signature)}); err != nil {
		return nil, err
	}
	for _, psk := range c.PSKs {
		if err := client.StorePSK(psk.ID, NewSecret(psk.PSK)); err != nil {
			return nil, err
		}
	}
	var opts JoinOptions
	if c.Tree != nil {
		opts.Tree = *c.Tree
	}
	g, err := client.Join(c.Welcome, opts)
	return g, within("welcome", ErrInvalid, err)
}

// follow processes the proposals and the commit of an epoch.
func (e *passiveEpoch) follow(g *Group) error {
	for i, msg := range e.Proposals {
		r, err := g.Process(msg)
		if err != nil {
			return within(fmt.Sprintf("proposals[%d]", i), ErrInvalid, err)
		}
		if r.Proposal == nil {
			return fail(ErrInvalid, "", fmt.Sprintf("proposals[%d]", i), "is no proposal")
		}
	}
	r, err := g.Process(e.Commit)
	if err != nil {
		return within("commit", ErrInvalid, err)
	}
	if r.Commit == nil || r.Commit.RemovesSelf() {
		return fail(ErrInvalid, "", "commit", "is no commit, or removes the passive client")
	}
	if err := g.Merge(r.Commit); err != nil {
		return err
	}
	return same("epoch_authenticator", g.EpochAuthenticator(), e.Authenticator)
}

package mlscore

import (
	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// GroupContext is the state that all members of a group agree on in an epoch (RFC 9420 §8.1).
type GroupContext struct {
	Version                 ProtocolVersion
	CipherSuite             CipherSuite
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

func (c *GroupContext) encode(w *codec.Writer) {
	w.Uint16(uint16(c.Version))
	w.Uint16(uint16(c.CipherSuite))
	w.Bytes(c.GroupID)
	w.Uint64(c.Epoch)
	w.Bytes(c.TreeHash)
	w.Bytes(c.ConfirmedTranscriptHash)
	c.Extensions.encode(w)
}

func (c *GroupContext) marshal() []byte {
	var w codec.Writer
	c.encode(&w)
	return w.Buffer()
}

func decodeGroupContext(r *codec.Reader) GroupContext {
	return GroupContext{
		Version:                 ProtocolVersion(r.Uint16()),
		CipherSuite:             CipherSuite(r.Uint16()),
		GroupID:                 r.Bytes(),
		Epoch:                   r.Uint64(),
		TreeHash:                r.Bytes(),
		ConfirmedTranscriptHash: r.Bytes(),
		Extensions:              decodeExtensions(r),
	}
}

// epochSecrets are the secrets that the key schedule derives for an epoch and that outlive its
// derivation (§8, table 4).
type epochSecrets struct {
	senderData    Secret
	encryption    Secret // the root of the secret tree, which takes it over
	exporter      Secret
	external      Secret
	confirmation  Secret
	membership    Secret
	resumption    Secret
	authenticator Secret
	init          Secret
}

// joinerSecret combines the last epoch's init secret with the commit secret (§8).
func (s *suite) joinerSecret(init, commit Secret, context []byte) Secret {
	extracted := s.extract(init.Bytes(), commit.Bytes())
	defer extracted.Erase()
	return s.expandWithLabel(extracted.Bytes(), "joiner", context, s.hashLen())
}

// memberSecret combines the joiner secret with the PSK secret. welcome_secret and epoch_secret are derived from the
// result.
func (s *suite) memberSecret(joiner, psk Secret) Secret {
	return s.extract(joiner.Bytes(), psk.Bytes())
}

// welcomeSecret derives from the intermediate secret.
func (s *suite) welcomeSecret(member Secret) Secret {
	return s.deriveSecret(member.Bytes(), "welcome")
}

// epochFrom derives an epoch's secrets from the intermediate secret and the new GroupContext.
func (s *suite) epochFrom(member Secret, context []byte) *epochSecrets {
	epoch := s.expandWithLabel(member.Bytes(), "epoch", context, s.hashLen())
	defer epoch.Erase()
	return s.deriveEpoch(epoch)
}

// deriveEpoch derives from the epoch secret.
func (s *suite) deriveEpoch(epoch Secret) *epochSecrets {
	derive := func(label string) Secret { return s.deriveSecret(epoch.Bytes(), label) }
	return &epochSecrets{
		senderData:    derive("sender data"),
		encryption:    derive("encryption"),
		exporter:      derive("exporter"),
		external:      derive("external"),
		confirmation:  derive("confirm"),
		membership:    derive("membership"),
		resumption:    derive("resumption"),
		authenticator: derive("authentication"),
		init:          derive("init"),
	}
}

// erase erases all secrets of the epoch.
func (e *epochSecrets) erase() {
	if e != nil {
		eraseAll(e.senderData, e.encryption, e.exporter, e.external, e.confirmation, e.membership,
			e.resumption, e.authenticator, e.init)
	}
}

// export implements MLS-Exporter (§8.5).
func (s *suite) export(exporter Secret, label string, context []byte, n int) Secret {
	derived := s.deriveSecret(exporter.Bytes(), label)
	defer derived.Erase()
	return s.expandWithLabel(derived.Bytes(), "exported", s.hash(context), n)
}

// confirmedTranscript extends the transcript by a commit (§8.2).
func (s *suite) confirmedTranscript(interim []byte, ac *authenticatedContent) []byte {
	var w codec.Writer
	w.Uint16(uint16(ac.format))
	w.Fixed(ac.content.marshal())
	w.Bytes(ac.signature)
	return s.hash(interim, w.Buffer())
}

// interimTranscript adds the commit's confirmation tag (§8.2).
func (s *suite) interimTranscript(confirmed, tag []byte) []byte {
	return s.hash(confirmed, codec.AppendBytes(nil, tag))
}

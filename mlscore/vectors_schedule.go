package mlscore

import (
	"cmp"
	"fmt"
)

// keyScheduleCase is a case of the format "Key Schedule".
type keyScheduleCase struct {
	Suite   CipherSuite     `json:"cipher_suite"`
	GroupID hexData         `json:"group_id"`
	Init    hexData         `json:"initial_init_secret"`
	Epochs  []scheduleEpoch `json:"epochs"`
}

// scheduleEpoch holds first the values that a generator chooses, and then the values that are computed from them.
type scheduleEpoch struct {
	TreeHash      hexData `json:"tree_hash"`
	CommitSecret  hexData `json:"commit_secret"`
	PSKSecret     hexData `json:"psk_secret"`
	Confirmed     hexData `json:"confirmed_transcript_hash"`
	Context       hexData `json:"group_context"`
	Joiner        hexData `json:"joiner_secret"`
	Welcome       hexData `json:"welcome_secret"`
	Init          hexData `json:"init_secret"`
	SenderData    hexData `json:"sender_data_secret"`
	Encryption    hexData `json:"encryption_secret"`
	Exporter      hexData `json:"exporter_secret"`
	Authenticator hexData `json:"epoch_authenticator"`
	External      hexData `json:"external_secret"`
	Confirmation  hexData `json:"confirmation_key"`
	Membership    hexData `json:"membership_key"`
	Resumption    hexData `json:"resumption_psk"`
	ExternalPub   hexData `json:"external_pub"`
	Export        struct {
		Label   string  `json:"label"`
		Context hexData `json:"context"`
		Length  uint32  `json:"length"`
		Secret  hexData `json:"secret"`
	} `json:"exporter"`
}

func (c *keyScheduleCase) verify(s *suite) error {
	init, err := s.secretOf("initial_init_secret", c.Init)
	if err != nil {
		return err
	}
	for i := range c.Epochs {
		got := c.Epochs[i]
		if init, err = got.compute(s, c.GroupID, uint64(i), init); err != nil {
			return within(fmt.Sprintf("epoch %d", i), ErrInvalid, err)
		}
		if err := c.Epochs[i].compare(&got); err != nil {
			return within(fmt.Sprintf("epoch %d", i), ErrInvalid, err)
		}
	}
	return nil
}

// compute fills in the values that follow from the chosen ones, and returns the next init secret.
func (e *scheduleEpoch) compute(s *suite, groupID []byte, epoch uint64, init Secret) (Secret, error) {
	if n := e.Export.Length; n > uint32(s.maxExpand()) {
		return Secret{}, fail(ErrMalformed, "§8.5", "exporter", "%d bytes, at most %d", n, s.maxExpand())
	}
	context := GroupContext{
		Version:                 MLS10,
		CipherSuite:             s.id,
		GroupID:                 groupID,
		Epoch:                   epoch,
		TreeHash:                e.TreeHash,
		ConfirmedTranscriptHash: e.Confirmed,
	}
	e.Context = context.marshal()
	joiner := s.joinerSecret(init, NewSecret(e.CommitSecret), e.Context)
	member := s.memberSecret(joiner, NewSecret(e.PSKSecret))
	secrets := s.epochFrom(member, e.Context)
	e.Joiner, e.Welcome = joiner.Bytes(), s.welcomeSecret(member).Bytes()
	e.Init, e.SenderData, e.Encryption = secrets.init.Bytes(), secrets.senderData.Bytes(), secrets.encryption.Bytes()
	e.Exporter, e.Authenticator = secrets.exporter.Bytes(), secrets.authenticator.Bytes()
	e.External, e.Confirmation = secrets.external.Bytes(), secrets.confirmation.Bytes()
	e.Membership, e.Resumption = secrets.membership.Bytes(), secrets.resumption.Bytes()
	_, pub, err := s.deriveKeyPair(secrets.external.Bytes())
	if err != nil {
		return Secret{}, err
	}
	e.ExternalPub = pub
	exported, err := s.exportBounded(secrets.exporter, e.Export.Label, e.Export.Context, int(e.Export.Length))
	e.Export.Secret = exported.Bytes()
	return secrets.init, err
}

func (e *scheduleEpoch) compare(got *scheduleEpoch) error {
	return cmp.Or(
		same("group_context", got.Context, e.Context),
		same("joiner_secret", got.Joiner, e.Joiner),
		same("welcome_secret", got.Welcome, e.Welcome),
		same("init_secret", got.Init, e.Init),
		same("sender_data_secret", got.SenderData, e.SenderData),
		same("encryption_secret", got.Encryption, e.Encryption),
		same("exporter_secret", got.Exporter, e.Exporter),
		same("epoch_authenticator", got.Authenticator, e.Authenticator),
		same("external_secret", got.External, e.External),
		same("confirmation_key", got.Confirmation, e.Confirmation),
		same("membership_key", got.Membership, e.Membership),
		same("resumption_psk", got.Resumption, e.Resumption),
		same("external_pub", got.ExternalPub, e.ExternalPub),
		same("exporter.secret", got.Export.Secret, e.Export.Secret),
	)
}

// secretTreeCase is a case of the format "Secret Tree".
type secretTreeCase struct {
	Suite      CipherSuite `json:"cipher_suite"`
	SenderData struct {
		Secret     hexData `json:"sender_data_secret"`
		Ciphertext hexData `json:"ciphertext"`
		Key        hexData `json:"key"`
		Nonce      hexData `json:"nonce"`
	} `json:"sender_data"`
	Encryption hexData          `json:"encryption_secret"`
	Leaves     [][]ratchetEntry `json:"leaves"`
}

// ratchetEntry is a generation of both ratchets of a leaf.
type ratchetEntry struct {
	Generation       uint32  `json:"generation"`
	HandshakeKey     hexData `json:"handshake_key"`
	HandshakeNonce   hexData `json:"handshake_nonce"`
	ApplicationKey   hexData `json:"application_key"`
	ApplicationNonce hexData `json:"application_nonce"`
}

// vectorRatchets allows a case to skip more generations than a member allows.
var vectorRatchets = RatchetLimits{Ahead: 1 << 13, Skipped: 1 << 13}

func (c *secretTreeCase) verify(s *suite) error {
	if len(c.Leaves) == 0 {
		return fail(ErrMalformed, "", "leaves", "there is none")
	}
	secret, err := s.secretOf("sender_data_secret", c.SenderData.Secret)
	if err != nil {
		return err
	}
	key, nonce := s.senderDataKey(secret, c.SenderData.Ciphertext)
	if err := cmp.Or(same("sender_data.key", key.Bytes(), c.SenderData.Key), same("sender_data.nonce", nonce.Bytes(), c.SenderData.Nonce)); err != nil {
		return err
	}
	if _, err := s.secretOf("encryption_secret", c.Encryption); err != nil {
		return err
	}
	// The generations in their order, and backwards, so that skipped keys are used too.
	return cmp.Or(c.verifyKeys(s, false), c.verifyKeys(s, true))
}

func (c *secretTreeCase) tree(s *suite) *secretTree {
	return newSecretTree(s, heightFor(len(c.Leaves)), NewSecret(c.Encryption))
}

func (c *secretTreeCase) verifyKeys(s *suite, backwards bool) error {
	t := c.tree(s)
	for i, entries := range c.Leaves {
		for k := range entries {
			want := entries[k]
			if backwards {
				want = entries[len(entries)-1-k]
			}
			got := ratchetEntry{Generation: want.Generation}
			if err := got.take(t, LeafIndex(i)); err != nil {
				return err
			}
			if err := want.compare(&got); err != nil {
				return within(fmt.Sprintf("%s, generation %d", leafName(LeafIndex(i)), want.Generation), ErrInvalid, err)
			}
		}
	}
	return nil
}

// take consumes the keys of both ratchets of a leaf for a generation.
func (e *ratchetEntry) take(t *secretTree, leaf LeafIndex) error {
	for _, r := range []struct {
		name       ratchetName
		key, nonce *hexData
	}{
		{ratchetName{leaf, true}, &e.HandshakeKey, &e.HandshakeNonce},
		{ratchetName{leaf, false}, &e.ApplicationKey, &e.ApplicationNonce},
	} {
		step, err := t.peek(r.name, e.Generation, vectorRatchets)
		if err != nil {
			return err
		}
		t.apply(step)
		*r.key, *r.nonce = step.key.key.Bytes(), step.key.nonce.Bytes()
	}
	return nil
}

func (e *ratchetEntry) compare(got *ratchetEntry) error {
	return cmp.Or(
		same("handshake_key", got.HandshakeKey, e.HandshakeKey),
		same("handshake_nonce", got.HandshakeNonce, e.HandshakeNonce),
		same("application_key", got.ApplicationKey, e.ApplicationKey),
		same("application_nonce", got.ApplicationNonce, e.ApplicationNonce),
	)
}

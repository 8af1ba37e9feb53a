package mlscore

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

func makeCryptoBasics(m *vectorMaker) (cases []any, err error) {
	s := m.suite
	c := &cryptoBasicsCase{Suite: s.id}
	c.Reference.Label, c.Reference.Value = "RefHash", m.bytes(48)
	c.Reference.Out = s.refHash(c.Reference.Label, c.Reference.Value)
	e := &c.Expand
	e.Secret, e.Label, e.Context, e.Length = m.hash(), "ExpandWithLabel", m.bytes(40), uint16(16+m.below(64))
	e.Out = s.expandWithLabel(e.Secret, e.Label, e.Context, int(e.Length)).Bytes()
	c.Derive.Secret, c.Derive.Label = m.hash(), "DeriveSecret"
	c.Derive.Out = s.deriveSecret(c.Derive.Secret, c.Derive.Label).Bytes()
	t := &c.Tree
	t.Secret, t.Label, t.Generation, t.Length = m.hash(), "DeriveTreeSecret", binary.BigEndian.Uint32(m.bytes(4)), uint16(16+m.below(64))
	t.Out = s.deriveTreeSecret(t.Secret, t.Label, t.Generation, int(t.Length)).Bytes()

	key, pub, err := s.generateSignatureKey(m.rand)
	if err != nil {
		return nil, err
	}
	v := &c.Sign
	v.Private, v.Public, v.Content, v.Label = key.Bytes(), pub, m.bytes(80), "SignWithLabel"
	if v.Signature, err = s.signWithLabel(v.Private, v.Label, v.Content); err != nil {
		return nil, err
	}
	priv, pub, err := s.generateKeyPair(m.rand)
	if err != nil {
		return nil, err
	}
	h := &c.Encrypt
	h.Private, h.Public, h.Label, h.Context, h.Plaintext = priv.Bytes(), pub, "EncryptWithLabel", m.bytes(50), m.bytes(60)
	h.KEMOutput, h.Ciphertext, err = encryptedFor(m, h.Public, h.Label, h.Context, h.Plaintext)
	return []any{c}, err
}

func encryptedFor(m *vectorMaker, pub []byte, label string, context, plaintext []byte) (hexData, hexData, error) {
	kem, ciphertext, err := m.suite.encryptWithLabel(m.rand, pub, label, context, plaintext)
	return kem, ciphertext, err
}

func makeDeserialization(m *vectorMaker) (cases []any, err error) {
	lengths := []uint32{0, 1, 0x3e, 0x3f, 0x40, 0x41, 0x3ffe, 0x3fff, 0x4000, 0x4001, codec.MaxLength - 1, codec.MaxLength}
	for range 4 {
		lengths = append(lengths, uint32(m.below(codec.MaxLength)))
	}
	for _, n := range lengths {
		cases = append(cases, &deserializationCase{codec.AppendVarint(nil, n), n})
	}
	return cases, nil
}

func makeTreeMath(*vectorMaker) (cases []any, err error) {
	for leaves := uint32(1); leaves <= 64; leaves *= 2 {
		cases = append(cases, treeMathOf(leaves))
	}
	return cases, nil
}

func makeKeySchedule(m *vectorMaker) (cases []any, err error) {
	s := m.suite
	c := &keyScheduleCase{Suite: s.id, GroupID: m.bytes(24), Init: m.hash()}
	init := NewSecret(c.Init)
	for i := range uint64(3) {
		e := scheduleEpoch{TreeHash: m.hash(), CommitSecret: m.hash(), PSKSecret: m.hash(), Confirmed: m.hash()}
		if i == 0 {
			e.PSKSecret = make([]byte, s.hashLen()) // the value without PSKs
		}
		e.Export.Label, e.Export.Context, e.Export.Length = hex.EncodeToString(m.bytes(12)), m.bytes(30), uint32(16+m.below(100))
		if init, err = e.compute(s, c.GroupID, i, init); err != nil {
			return nil, err
		}
		c.Epochs = append(c.Epochs, e)
	}
	return []any{c}, nil
}

func makePSKSecrets(m *vectorMaker) (cases []any, err error) {
	for _, n := range []int{0, 1, 3} {
		c := &pskSecretCase{Suite: m.suite.id, PSKs: []pskVector{}}
		for range n {
			c.PSKs = append(c.PSKs, pskVector{m.bytes(1 + m.below(40)), m.bytes(1 + m.below(90)), m.hash()})
		}
		if c.Out, err = c.compute(m.suite); err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func makeSecretTrees(m *vectorMaker) (cases []any, err error) {
	for _, leaves := range []int{1, 2, 8} {
		c := &secretTreeCase{Suite: m.suite.id, Encryption: m.hash(), Leaves: make([][]ratchetEntry, leaves)}
		d := &c.SenderData
		d.Secret, d.Ciphertext = m.hash(), m.bytes(1+m.below(120))
		key, nonce := m.suite.senderDataKey(NewSecret(d.Secret), d.Ciphertext)
		d.Key, d.Nonce = key.Bytes(), nonce.Bytes()
		keys := c.tree(m.suite)
		for i := range c.Leaves {
			for _, generation := range []uint32{0, 1, 9} {
				e := ratchetEntry{Generation: generation}
				if err := e.take(keys, LeafIndex(i)); err != nil {
					return nil, err
				}
				c.Leaves[i] = append(c.Leaves[i], e)
			}
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func makeTranscripts(m *vectorMaker) (cases []any, err error) {
	s := m.suite
	c := &transcriptCase{Suite: s.id, ConfirmationKey: m.hash(), InterimBefore: m.hash()}
	context := GroupContext{Version: MLS10, CipherSuite: s.id, GroupID: m.bytes(20), Epoch: uint64(m.below(1000)), TreeHash: m.hash(), ConfirmedTranscriptHash: m.hash()}
	t, err := newKEMTree(m, context.GroupID, 2)
	if err != nil {
		return nil, err
	}
	commit, err := t.commitContent(1)
	if err != nil {
		return nil, err
	}
	ac := &authenticatedContent{format: WireFormatPublicMessage, content: &framedContent{
		groupID: context.GroupID, epoch: context.Epoch, sender: member(1), authenticatedData: m.bytes(10), kind: ContentCommit, commit: commit,
	}}
	if err := ac.sign(s, t.leaves[1].signature, context.marshal()); err != nil {
		return nil, err
	}
	c.ConfirmedAfter = s.confirmedTranscript(c.InterimBefore, ac)
	ac.confirmationTag = s.mac(c.ConfirmationKey, c.ConfirmedAfter)
	c.InterimAfter = s.interimTranscript(c.ConfirmedAfter, ac.confirmationTag)
	c.Content = ac.marshal()
	return []any{c}, nil
}

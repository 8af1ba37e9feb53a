package mlscore

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// PSKType is the type of a PSK, external or resumption (RFC 9420 §8.4).
type PSKType uint8

// The types of §8.4.
const (
	PSKExternal   PSKType = 1
	PSKResumption PSKType = 2
)

// ResumptionUsage is the purpose for which a resumption PSK is used (§8.4).
type ResumptionUsage uint8

// The usages of §8.4.
const (
	UsageApplication ResumptionUsage = 1
	UsageReInit      ResumptionUsage = 2
	UsageBranch      ResumptionUsage = 3
)

// PreSharedKeyID names a PSK and, by its nonce, one use of the PSK (§8.4).
type PreSharedKeyID struct {
	Type    PSKType
	ID      []byte          // external
	Usage   ResumptionUsage // resumption
	GroupID []byte          // resumption
	Epoch   uint64          // resumption
	Nonce   []byte          // fresh for each use, as long as a hash
}

// String returns the name of the PSK without its nonce.
func (id PreSharedKeyID) String() string {
	if id.Type == PSKExternal {
		return "external psk " + hex.EncodeToString(id.ID)
	}
	return fmt.Sprintf("resumption psk of group %x, epoch %d", id.GroupID, id.Epoch)
}

// PSKProposal makes a proposal that injects a PSK in a group of a cipher suite (RFC 9420 §12.1.4): an external PSK,
// or a resumption PSK with UsageApplication. An id without a Nonce gets a new nonce. PSKProposal needs no Client: an
// external sender can call it too. A nil source of randomness means crypto/rand. It returns ErrUnsupported if the
// suite is not known.
func PSKProposal(random io.Reader, cs CipherSuite, id PreSharedKeyID) (Proposal, error) {
	s, err := suiteOf(cs)
	if err != nil {
		return Proposal{}, err
	}
	random = cmp.Or(random, rand.Reader)
	return s.pskProposal(random, id)
}

func (s *suite) pskProposal(random io.Reader, id PreSharedKeyID) (Proposal, error) {
	id = id.clone()
	if id.Nonce == nil {
		id.Nonce = make([]byte, s.hashLen())
		if _, err := io.ReadFull(random, id.Nonce); err != nil {
			return Proposal{}, fmt.Errorf("read randomness for a nonce: %w", err)
		}
	}
	return Proposal{Type: ProposalPSK, PSK: &id}, nil
}

// clone copies the fields that may share memory with a message.
func (id PreSharedKeyID) clone() PreSharedKeyID {
	id.ID, id.GroupID, id.Nonce = slices.Clone(id.ID), slices.Clone(id.GroupID), slices.Clone(id.Nonce)
	return id
}

func (id PreSharedKeyID) encode(w *codec.Writer) {
	w.Uint8(uint8(id.Type))
	if id.Type == PSKExternal {
		w.Bytes(id.ID)
	} else {
		w.Uint8(uint8(id.Usage))
		w.Bytes(id.GroupID)
		w.Uint64(id.Epoch)
	}
	w.Bytes(id.Nonce)
}

func decodePSKID(r *codec.Reader) PreSharedKeyID {
	id := PreSharedKeyID{Type: PSKType(r.Uint8())}
	switch id.Type {
	case PSKExternal:
		id.ID = r.Bytes()
	case PSKResumption:
		id.Usage = ResumptionUsage(r.Uint8())
		if id.Usage < UsageApplication || id.Usage > UsageBranch {
			r.Fail(fail(ErrMalformed, "§8.4", "psk", "resumption usage %d is not defined", id.Usage))
		}
		id.GroupID = r.Bytes()
		id.Epoch = r.Uint64()
	default:
		r.Fail(fail(ErrMalformed, "§8.4", "psk", "type %d is not defined", id.Type))
	}
	id.Nonce = r.Bytes()
	return id
}

// pskSecret chains PSKs in their order (§8.4). Without PSKs the result is all zero.
func (s *suite) pskSecret(ids []PreSharedKeyID, psks []Secret) (Secret, error) {
	zero := make([]byte, s.hashLen())
	secret := ownSecret(make([]byte, s.hashLen()))
	if len(ids) > 0xffff {
		return Secret{}, fail(ErrLimit, "§8.4", "psks", "%d, at most 65535", len(ids))
	}
	for i, id := range ids {
		extracted := s.extract(zero, psks[i].Bytes())
		var label codec.Writer
		id.encode(&label)
		label.Uint16(uint16(i))
		label.Uint16(uint16(len(ids)))
		input := s.expandWithLabel(extracted.Bytes(), "derived psk", label.Buffer(), s.hashLen())
		next := s.extract(input.Bytes(), secret.Bytes())
		eraseAll(extracted, input, secret)
		secret = next
	}
	return secret, nil
}

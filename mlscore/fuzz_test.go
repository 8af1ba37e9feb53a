package mlscore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// A fuzzDecoder decodes bytes and encodes the result again. For accepted bytes the encoding must be the same bytes,
// and no proper prefix of them may be accepted.
type fuzzDecoder struct {
	name   string
	recode func(b []byte) ([]byte, error)
}

// wireDecoder makes a decoder of an object inside a message.
func wireDecoder[T any](name string, decode func(*codec.Reader) T, encode func(T, *codec.Writer)) fuzzDecoder {
	return fuzzDecoder{name, func(b []byte) ([]byte, error) {
		r := codec.NewReader(b, codec.DefaultLimits)
		v := decode(r)
		if err := r.Finish(); err != nil {
			return nil, err
		}
		var w codec.Writer
		encode(v, &w)
		return w.Finish()
	}}
}

// recordDecoder makes a decoder of an object that is read as a whole.
func recordDecoder[T any](name string, parse func([]byte) (T, error), marshal func(T) ([]byte, error)) fuzzDecoder {
	return fuzzDecoder{name, func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		return marshal(v)
	}}
}

// infallible adds a nil error to the result of marshal.
func infallible[T any](marshal func(T) []byte) func(T) ([]byte, error) {
	return func(v T) ([]byte, error) { return marshal(v), nil }
}

// encodeAnyMessage encodes a message from its parts, not from its received bytes.
func encodeAnyMessage(m *message) ([]byte, error) {
	switch {
	case m.public != nil:
		m.public.content.encoded = nil
		return encodeMessage(m.format, m.public.encode)
	case m.private != nil:
		return encodeMessage(m.format, m.private.encode)
	case m.welcome != nil:
		return encodeMessage(m.format, m.welcome.encode)
	case m.groupInfo != nil:
		return encodeMessage(m.format, m.groupInfo.encode)
	}
	return encodeMessage(m.format, m.keyPackage.encode)
}

// recodeAuthenticated encodes AuthenticatedContent from its parts.
func recodeAuthenticated(a *authenticatedContent) []byte {
	a.content.encoded = nil
	return a.marshal()
}

// oneExtension makes a list of one extension, for parsers of lists.
func oneExtension(t ExtensionType, data []byte) Extensions { return Extensions{{t, data}} }

var messageDecoder = recordDecoder("message",
	func(b []byte) (*message, error) { return parseMessage(b, codec.DefaultLimits) }, encodeAnyMessage)

var treeDecoder = recordDecoder("tree",
	func(b []byte) (*ratchetTree, error) { return parseTree(suites[0], anyName{}, b, codec.DefaultLimits) },
	(*ratchetTree).marshal)

// anyName uses a credential's encoding as its identity.
type anyName struct{ TrustBasic }

func (anyName) Identity(c Credential, _ []byte) ([]byte, error) {
	var w codec.Writer
	c.encode(&w)
	return w.Finish()
}

// partDecoders decode the parts of messages.
var partDecoders = []fuzzDecoder{
	wireDecoder("public message", decodePublicMessage, func(m *publicMessage, w *codec.Writer) {
		m.content.encoded = nil
		m.encode(w)
	}),
	wireDecoder("private message", decodePrivateMessage, (*privateMessage).encode),
	wireDecoder("welcome", decodeWelcome, (*welcome).encode),
	wireDecoder("group info", decodeGroupInfo, (*groupInfo).encode),
	recordDecoder("group secrets", func(b []byte) (*groupSecrets, error) { return parseGroupSecrets(b, codec.DefaultLimits) }, infallible((*groupSecrets).marshal)),
	wireDecoder("key package", decodeKeyPackage, (*KeyPackage).encode),
	wireDecoder("leaf node", decodeLeafNode, (*LeafNode).encode),
	wireDecoder("proposal", decodeProposal, func(p Proposal, w *codec.Writer) { p.encode(w) }),
	wireDecoder("commit", decodeCommit, (*commitContent).encode),
	wireDecoder("update path", decodeUpdatePath, (*updatePath).encode),
	wireDecoder("credential", decodeCredential, Credential.encode),
	wireDecoder("group context", decodeGroupContext, func(c GroupContext, w *codec.Writer) { c.encode(w) }),
	wireDecoder("psk id", decodePSKID, PreSharedKeyID.encode),
	wireDecoder("sender", decodeSender, Sender.encode),
	wireDecoder("extensions", decodeExtensions, Extensions.encode),
	recordDecoder("required_capabilities", parseRequiredCapabilities,
		func(c RequiredCapabilities) ([]byte, error) { return c.Extension().Data, nil }),
	recordDecoder("external_senders",
		func(b []byte) ([]ExternalSender, error) {
			return oneExtension(ExtensionExternalSenders, b).ExternalSenders()
		},
		func(s []ExternalSender) ([]byte, error) {
			x, err := ExternalSendersExtension(s)
			return x.Data, err
		}),
	recordDecoder("external_pub",
		func(b []byte) ([]byte, error) {
			return (&groupInfo{extensions: oneExtension(ExtensionExternalPub, b)}).externalPub()
		},
		func(pub []byte) ([]byte, error) { return externalPubExtension(pub).Data, nil }),
}

// storedDecoders decode the records of docs/spec/state.md.
var storedDecoders = []fuzzDecoder{
	recordDecoder("head", parseHead, infallible((*headRecord).marshal)),
	recordDecoder("tree record", parseTreeRecord, infallible((*treeRecord).marshal)),
	recordDecoder("stored tree",
		func(b []byte) (*storedTree, error) { return parseStoredTree(string(b), sha256.Size) }, (*storedTree).marshal),
	recordDecoder("past", parsePastRecord, infallible((*pastRecord).marshal)),
	recordDecoder("pending", parsePendingRecord, (*pendingRecord).marshal),
	recordDecoder("update", parseOwnUpdate, infallible((*ownUpdate).marshal)),
	recordDecoder("key package record", parseKeyPackageRecord, infallible((*keyPackageRecord).marshal)),
	recordDecoder("ratchet", parseRatchet, func(r *ratchet) ([]byte, error) { return marshalRatchet(r.secret, r.generation), nil }),
	recordDecoder("message key", func(b []byte) (messageKey, error) { return suites[0].parseMessageKey(0, b) }, infallible(messageKey.marshal)),
	recordDecoder("cached proposal",
		func(b []byte) (*authenticatedContent, error) {
			if _, err := openCached(suites[0], b); err != nil {
				return nil, err
			}
			return decodeAuthenticatedContent(codec.NewReader(b, codec.DefaultLimits)), nil
		}, infallible(recodeAuthenticated)),
	recordDecoder("import offer", parseImportOffer, infallible((*importOffer).marshal)),
	recordDecoder("stored import offer", parseOfferRecord, infallible((*offerRecord).marshal)),
	recordDecoder("moved group", parseMovedGroup, (*movedGroup).marshal),
	recordDecoder("moved records", parseMovedRecords, (*movedRecords).marshal),
	recordDecoder("stored leaf", func(b []byte) (*LeafNode, error) { return parseLeafNode(string(b)) }, (*LeafNode).marshal),
}

var publicDecoder = recordDecoder("public state",
	func(b []byte) (*PublicState, error) { return ParsePublicState(b, PublicConfig{Auth: anyName{}}) },
	(*PublicState).MarshalBinary)

// allDecoders returns the decoders of all targets.
func allDecoders() []fuzzDecoder {
	return slices.Concat([]fuzzDecoder{messageDecoder, treeDecoder, publicDecoder}, partDecoders, storedDecoders)
}

// check passes bytes to a decoder. It reports whether the decoder accepts them.
func (d fuzzDecoder) check(t testing.TB, b []byte) bool {
	t.Helper()
	before := bytes.Clone(b)
	got, err := d.recode(b)
	if !bytes.Equal(b, before) {
		t.Fatalf("%s: its input was changed", d.name)
	}
	if err != nil {
		return false
	}
	if !bytes.Equal(got, b) {
		t.Fatalf("%s: %x decodes, and encodes to %x", d.name, b, got)
	}
	step := 1 + len(b)/512
	for n := 0; n < len(b); n += step {
		if _, err := d.recode(b[:n]); err == nil {
			t.Fatalf("%s: of %x the first %d bytes decode alone", d.name, b, n)
		}
	}
	if _, err := d.recode(append(before, 0)); err == nil {
		t.Fatalf("%s: %x decodes with a byte behind it", d.name, b)
	}
	return true
}

// allocated runs f and returns the approximate number of bytes that f allocated.
func allocated(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	f()
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

// tooMuch returns a number of bytes that a decoder must not allocate for n bytes of input. A ratchet tree needs the
// most memory: a blank node of one byte becomes a node with its hash.
func tooMuch(n int) uint64 { return 4<<20 + 4096*uint64(n) }

// fuzzDecoders fuzzes a list of decoders: the first argument selects one of them.
func fuzzDecoders(f *testing.F, list ...fuzzDecoder) {
	seeds := decoderSeeds(f)
	for i, d := range list {
		if len(seeds[d.name]) == 0 {
			f.Fatalf("%s: no seeds", d.name)
		}
		for _, seed := range seeds[d.name] {
			if !d.check(f, seed) {
				_, err := d.recode(seed)
				f.Fatalf("%s: %x does not decode: %v", d.name, seed, err)
			}
			if len(seed) <= 8<<10 {
				f.Add(uint8(i), seed)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		d := list[int(which)%len(list)]
		if n := allocated(func() { _, _ = d.recode(b) }); n > tooMuch(len(b)) {
			t.Fatalf("%s: %d bytes allocated for %d", d.name, n, len(b))
		}
		d.check(t, b)
	})
}

func FuzzMessage(f *testing.F)     { fuzzDecoders(f, messageDecoder) }
func FuzzParts(f *testing.F)       { fuzzDecoders(f, partDecoders...) }
func FuzzStored(f *testing.F)      { fuzzDecoders(f, storedDecoders...) }
func FuzzRatchetTree(f *testing.F) { fuzzDecoders(f, treeDecoder) }
func FuzzPublicState(f *testing.F) { fuzzDecoders(f, publicDecoder) }

// TestDecoders checks that every decoder decodes the encodings of this package, and the vectors.
func TestDecoders(t *testing.T) {
	seeds := decoderSeeds(t)
	for _, d := range allDecoders() {
		if len(seeds[d.name]) == 0 {
			t.Errorf("%s: no seeds", d.name)
		}
		for _, seed := range seeds[d.name] {
			if !d.check(t, seed) {
				t.Errorf("%s: %x does not decode", d.name, seed)
			}
		}
	}
}

// TestLyingLengths writes the largest length at every place of every message, and checks that it is refused before
// memory is allocated for it.
func TestLyingLengths(t *testing.T) {
	seeds := decoderSeeds(t)
	var stats runtime.MemStats
	for _, d := range allDecoders() {
		seed := slices.MinFunc(seeds[d.name], func(a, b []byte) int { return len(a) - len(b) })
		step := 1 + len(seed)/400
		for _, lie := range [][]byte{{0xbf, 0xff, 0xff, 0xff}, {0x80, 0xff, 0xff, 0xff}, {0x7f, 0xff}, {0xff, 0xff, 0xff, 0xff}} {
			tried := uint64(0)
			runtime.ReadMemStats(&stats)
			before := stats.TotalAlloc
			for at := 0; at < len(seed); at += step {
				b := append(append(bytes.Clone(seed[:at]), lie...), seed[at:]...)
				tried++
				if got, err := d.recode(b); err == nil && !bytes.Equal(got, b) {
					t.Errorf("%s: %x decodes, and encodes to %x", d.name, b, got)
				}
			}
			runtime.ReadMemStats(&stats)
			if each := (stats.TotalAlloc - before) / max(tried, 1); each > 64<<10+200*uint64(len(seed)) {
				t.Errorf("%s: %d bytes allocated for each of %d inputs of %d bytes", d.name, each, tried, len(seed))
			}
		}
	}
}

// TestSection12_4_3_3_TreeOfBlanks checks that a tree with more nodes than the limit of vector elements is refused,
// although its nodes are blank and take one byte each.
func TestSection12_4_3_3_TreeOfBlanks(t *testing.T) {
	limits := codec.Limits{Count: 1000}
	for _, n := range []int{1000, 1001} {
		b := append(codec.AppendVarint(nil, uint32(n)), make([]byte, n)...)
		_, err := parseTree(suites[0], anyName{}, b, limits)
		requireKind(t, err, map[int]error{1000: ErrMalformed, 1001: ErrLimit}[n])
	}
}

// FuzzPrivateContent decodes arbitrary content that a member has encrypted: content, signature and padding.
func FuzzPrivateContent(f *testing.F) {
	s := suites[0]
	key := messageKey{0, NewSecret(make([]byte, s.keyLen())), NewSecret(make([]byte, s.nonceLen()))}
	plain := func(ac *authenticatedContent) []byte {
		var w codec.Writer
		ac.content.encodeBody(&w)
		ac.encodeAuth(&w)
		return w.Buffer()
	}
	for _, b := range decoderSeeds(f)["message"] {
		if m, err := parseMessage(b, codec.DefaultLimits); err == nil && m.public != nil {
			f.Add(uint8(m.public.content.kind), append(plain(&m.public.authenticatedContent), 0, 0, 0))
		}
	}
	f.Add(uint8(ContentApplication), []byte("\x05hello\x01s"))
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		m := &privateMessage{groupID: []byte("g"), kind: ContentType(kind)}
		var aad codec.Writer
		m.encodeHeader(&aad)
		aad.Bytes(nil)
		m.ciphertext = s.aeadSeal(key.key.Bytes(), key.nonce.Bytes(), aad.Buffer(), b)
		ac, err := s.openPrivate(m, senderData{}, key, codec.DefaultLimits)
		if err != nil {
			return
		}
		if got := plain(ac); len(got) > len(b) || !bytes.Equal(got, b[:len(got)]) || len(bytes.Trim(b[len(got):], "\x00")) > 0 {
			t.Fatalf("%x decodes, and encodes to %x", b, got)
		}
	})
}

// vectorSeeds reads messages.json of the official vectors, if it is there.
func vectorSeeds(t testing.TB, seeds map[string][][]byte) {
	dir := vectorsFolder()
	if dir == "" {
		return
	}
	raw, err := os.ReadFile(filepath.Join(dir, "messages.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []map[string]string
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	proposals := map[string]ProposalType{
		"add_proposal": ProposalAdd, "update_proposal": ProposalUpdate, "remove_proposal": ProposalRemove,
		"pre_shared_key_proposal": ProposalPSK, "re_init_proposal": ProposalReInit,
		"external_init_proposal": ProposalExternalInit, "group_context_extensions_proposal": ProposalGroupContextExtensions,
	}
	others := map[string]string{"ratchet_tree": "tree", "group_secrets": "group secrets", "commit": "commit"}
	for _, c := range cases[:min(len(cases), 20)] {
		for field, text := range c {
			b, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			name := "message"
			if kind, ok := proposals[field]; ok {
				name, b = "proposal", append([]byte{0, byte(kind)}, b...)
			} else if other, ok := others[field]; ok {
				name = other
			}
			seeds[name] = append(seeds[name], b)
		}
	}
}

package mlscore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The formats of groups that were recorded from other implementations. The scripts themselves have the format
// "Passive Client Scenarios"; the other files of the folder refer to each other.

// vectorSet is a file of test vectors whose cases refer to each other or to other files.
type vectorSet struct {
	cases []json.RawMessage
	read  func(file string) ([]byte, error)
}

// decodePeers decodes all cases of a set. An unknown field is an error.
func decodePeers[T any](set *vectorSet) ([]T, error) {
	list := make([]T, len(set.cases))
	for i, raw := range set.cases {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&list[i]); err != nil {
			return nil, &Error{Kind: ErrMalformed, Object: fmt.Sprintf("case %d", i), Detail: "is not of the format", Err: err}
		}
	}
	return list, nil
}

// scripts reads a file of passive client scenarios in the folder of the set.
func (set *vectorSet) scripts(file string) ([]passiveCase, error) {
	if set.read == nil {
		return nil, fail(ErrMisuse, "", file, "is not at hand: verify the folder, see VerifyFile")
	}
	data, err := set.read(file)
	if err != nil {
		return nil, &Error{Kind: ErrMissing, Object: file, Detail: "cannot be read", Err: err}
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, &Error{Kind: ErrMalformed, Object: file, Detail: "is no JSON array of cases", Err: err}
	}
	list := make([]passiveCase, len(raw))
	for i := range raw {
		if err := decodeVector(raw[i], &list[i]); err != nil {
			return nil, within(fmt.Sprintf("%s, case %d", file, i), ErrMalformed, err)
		}
	}
	return list, nil
}

// script returns one case; files caches the files that were read before.
func (set *vectorSet) script(files map[string][]passiveCase, file string, at int) (*passiveCase, error) {
	list, ok := files[file]
	if !ok {
		var err error
		if list, err = set.scripts(file); err != nil {
			return nil, err
		}
		files[file] = list
	}
	if at < 0 || at >= len(list) {
		return nil, fail(ErrMissing, "", file, "has %d cases, %d is none of them", len(list), at)
	}
	return &list[at], nil
}

// scriptSummary is a case of scripts.json: the summary of a script's events.
type scriptSummary struct {
	File       string          `json:"file"`
	Case       int             `json:"case"`
	Suite      CipherSuite     `json:"cipher_suite"`
	Members    json.RawMessage `json:"members"`
	Handshakes string          `json:"handshakes"`
	Epochs     int             `json:"epochs"`
	Steps      json.RawMessage `json:"steps"`
}

// openScripts checks that the scripts exist and have the stated lengths. The scripts themselves are verified in their
// own files.
func openScripts(set *vectorSet) (func(int, *suite) error, error) {
	list, err := decodePeers[scriptSummary](set)
	files := map[string][]passiveCase{}
	return func(i int, s *suite) error {
		c, err := set.script(files, list[i].File, list[i].Case)
		if err != nil {
			return err
		}
		if c.Suite != s.id || len(c.Epochs) != list[i].Epochs {
			return fail(ErrInvalid, "", list[i].File, "case %d is for %v and has %d epochs, not %d", list[i].Case, c.Suite, len(c.Epochs), list[i].Epochs)
		}
		return nil
	}, err
}

// peerMessage is an application message that was sent during a script.
type peerMessage struct {
	File           string      `json:"file"`
	Case           int         `json:"case"`
	Library        string      `json:"library"`
	Suite          CipherSuite `json:"cipher_suite"`
	Sent           int         `json:"sent"`
	After          int         `json:"after"`
	Bytes          hexData     `json:"bytes"`
	Plaintext      hexData     `json:"plaintext"`
	Authenticated  hexData     `json:"authenticated_data"`
	SenderIdentity string      `json:"sender_identity"`
}

// openPeerMessages reads the messages of a script while it is followed, once for all of them.
func openPeerMessages(set *vectorSet) (func(int, *suite) error, error) {
	list, err := decodePeers[peerMessage](set)
	files := map[string][]passiveCase{}
	done := map[int]error{}
	return func(i int, s *suite) error {
		if err, ok := done[i]; ok {
			return err
		}
		c, err := set.script(files, list[i].File, list[i].Case)
		if err != nil {
			return err
		}
		var own []int
		for k := range list {
			if list[k].File == list[i].File && list[k].Case == list[i].Case {
				own = append(own, k)
				done[k] = fail(ErrMissing, "", "message", "is to be read after epoch %d, which the script does not reach", list[k].After)
			}
		}
		err = c.readAlong(s, func(g *Group, after int) {
			for _, k := range own {
				if list[k].After == after {
					done[k] = list[k].read(g)
				}
			}
		})
		if err != nil {
			for _, k := range own {
				done[k] = err
			}
		}
		return done[i]
	}, err
}

// readAlong follows a script and calls read after each epoch with the number of entered epochs.
func (c *passiveCase) readAlong(s *suite, read func(g *Group, after int)) error {
	if c.Suite != s.id {
		return fail(ErrInvalid, "", "case", "is for %v, the message for %v", c.Suite, s.id)
	}
	g, err := c.join(s)
	if err != nil {
		return err
	}
	read(g, 0)
	for i := range c.Epochs {
		if err := c.Epochs[i].follow(g); err != nil {
			return within(fmt.Sprintf("epochs[%d]", i), ErrInvalid, err)
		}
		read(g, i+1)
	}
	return nil
}

func (m *peerMessage) read(g *Group) error {
	r, err := g.Process(m.Bytes)
	if err != nil {
		return err
	}
	if r.Application == nil {
		return fail(ErrInvalid, "", "message", "is no application message")
	}
	return cmp.Or(
		same("plaintext", r.Application.Data, m.Plaintext),
		same("authenticated_data", r.Application.AuthenticatedData, m.Authenticated),
		same("sender_identity", r.Application.Sender.Credential.Identity, []byte(m.SenderIdentity)),
	)
}

// peerObject is an object that a peer published, with the expected result under RFC 9420.
type peerObject struct {
	Library   string      `json:"library"`
	Version   string      `json:"version"`
	Note      string      `json:"note"`
	Suite     CipherSuite `json:"cipher_suite"`
	What      string      `json:"what"`
	At        int64       `json:"at"` // Unix time
	Bytes     hexData     `json:"bytes"`
	Expected  string      `json:"expected"`
	Rule      string      `json:"rule"`
	Why       string      `json:"why"`
	Tree      hexData     `json:"ratchet_tree"`
	GroupInfo *int        `json:"group_info_index"`
	GroupID   *hexData    `json:"group_id"`
	Epoch     *uint64     `json:"epoch"`
}

func openPeerObjects(set *vectorSet) (func(int, *suite) error, error) {
	list, err := decodePeers[peerObject](set)
	return func(i int, s *suite) error {
		o := &list[i]
		var err error
		switch o.What {
		case "key_package":
			err = o.keyPackage(s)
		case "group_info":
			err = o.groupInfo(s)
		case "external_add_proposal":
			if o.GroupInfo == nil || *o.GroupInfo < 0 || *o.GroupInfo >= len(list) {
				return fail(ErrMalformed, "", "group_info_index", "names no object")
			}
			err = o.proposal(&list[*o.GroupInfo])
		default:
			return fail(ErrUnsupported, "", "what", "%.80q is not known", o.What)
		}
		if o.Expected == "valid" {
			return err
		}
		return refusedBy(o.Rule, err)
	}, err
}

// refusedBy checks that err is a refusal by a rule of the RFC.
func refusedBy(rule string, err error) error {
	var e *Error
	switch {
	case err == nil:
		return fail(ErrInvalid, "", "case", "is accepted, and should be refused by %s", rule)
	case rule == "" || !errors.As(err, &e) || e.Clause != rule:
		return fail(ErrInvalid, "", "case", "should be refused by %q, and is by: %v", rule, err)
	}
	return nil
}

func (o *peerObject) time() time.Time { return time.Unix(o.At, 0) }

func (o *peerObject) keyPackage(s *suite) error {
	kp, err := ParseKeyPackage(o.Bytes)
	if err != nil {
		return err
	}
	if kp.CipherSuite != s.id {
		return fail(ErrInvalid, "", "key_package", "is for %v", kp.CipherSuite)
	}
	return kp.Verify(KeyPackageRules{Auth: trustSignatureKey{}, Now: o.time()})
}

// groupInfo joins the group by an external commit, with all capabilities that the group requires.
func (o *peerObject) groupInfo(s *suite) error {
	info, err := ParseGroupInfo(o.Bytes)
	if err != nil {
		return err
	}
	context := info.Context()
	if context.CipherSuite != s.id || o.GroupID == nil || o.Epoch == nil || context.Epoch != *o.Epoch {
		return fail(ErrInvalid, "", "group_info", "is of %v and epoch %d", context.CipherSuite, context.Epoch)
	}
	if err := same("group_id", context.GroupID, *o.GroupID); err != nil {
		return err
	}
	cfg := vectorConfig()
	cfg.Now = o.time
	required, err := context.Extensions.RequiredCapabilities()
	if err != nil {
		return err
	}
	cfg.Credentials = append([]CredentialType{CredentialX509}, required.Credentials...)
	for _, t := range required.Proposals {
		if t.row().listed {
			cfg.Proposals = append(cfg.Proposals, t)
		}
	}
	for _, t := range required.Extensions {
		if !t.isDefault() {
			cfg.Extensions = append(cfg.Extensions, t)
		}
	}
	for _, x := range context.Extensions {
		if !x.Type.isDefault() {
			cfg.Extensions = append(cfg.Extensions, x.Type)
		}
	}
	client, err := NewClient(cfg)
	if err != nil {
		return err
	}
	key, _, err := GenerateSignatureKey(nil, s.id)
	if err != nil {
		return err
	}
	x, err := client.ExternalJoin(Identity{s.id, BasicCredential([]byte("passive client")), key}, o.Bytes, ExternalOptions{Tree: o.Tree})
	if err != nil {
		return err
	}
	_, err = x.Complete()
	return err
}

// proposal processes a proposal in the group of a GroupInfo, as a server does.
func (o *peerObject) proposal(of *peerObject) error {
	state, err := NewPublicState(of.Bytes, of.Tree, PublicConfig{Auth: trustSignatureKey{}})
	if err != nil {
		return err
	}
	state, _, err = state.Process(o.Bytes)
	if err != nil {
		return err
	}
	pending := state.Pending()
	if len(pending) != 1 || pending[0].Type != ProposalAdd {
		return fail(ErrInvalid, "", "external_add_proposal", "is no Add")
	}
	return pending[0].Add.Verify(KeyPackageRules{Auth: trustSignatureKey{}, Now: o.time()})
}

// refusedMessage is a script whose last message must be refused.
type refusedMessage struct {
	Library      string          `json:"library"`
	Version      string          `json:"version"`
	Suite        CipherSuite     `json:"cipher_suite"`
	Rule         string          `json:"rule"`
	Why          string          `json:"why"`
	Epoch        int             `json:"refused_epoch"` // -1 for the Welcome
	Message      string          `json:"refused_message"`
	OtherReaders json.RawMessage `json:"other_readers"`
	Case         passiveCase     `json:"case"`
}

func openRefusedMessages(set *vectorSet) (func(int, *suite) error, error) {
	list, err := decodePeers[refusedMessage](set)
	return func(i int, s *suite) error { return list[i].verify(s) }, err
}

// verify follows the script up to the message that must be refused, and checks that the refused message changes
// nothing.
func (m *refusedMessage) verify(s *suite) error {
	g, err := m.Case.join(s)
	if m.Epoch == -1 {
		return refusedBy(m.Rule, err)
	}
	if err != nil {
		return err
	}
	if m.Epoch < 0 || m.Epoch >= len(m.Case.Epochs) {
		return fail(ErrMalformed, "", "refused_epoch", "is %d of %d", m.Epoch, len(m.Case.Epochs))
	}
	for i := range m.Epoch {
		if err := m.Case.Epochs[i].follow(g); err != nil {
			return within(fmt.Sprintf("epochs[%d]", i), ErrInvalid, err)
		}
	}
	before, epoch := g.EpochAuthenticator(), g.Epoch()
	if err := refusedBy(m.Rule, m.Case.Epochs[m.Epoch].follow(g)); err != nil {
		return err
	}
	if g.Epoch() != epoch {
		return fail(ErrInvalid, "", "group", "is in epoch %d after the refusal, not %d", g.Epoch(), epoch)
	}
	return same("epoch_authenticator after the refusal", g.EpochAuthenticator(), before)
}

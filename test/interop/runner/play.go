package runner

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
	"time"
)

// play is one run of a script.
type play struct {
	ctx     context.Context
	timeout time.Duration
	suite   uint32
	private bool
	groupID []byte
	actors  map[string]*actor
	made    []made // by each step
	signers uint32 // the number of proposed external senders
	at      int    // the step under way
}

// actor is a role, assigned to a peer.
type actor struct {
	name                       string
	peer                       *Peer
	state, transaction, signer uint32
	member                     bool   // state is set
	joining                    bool   // transaction is set
	signs                      bool   // signer is set
	place                      uint32 // among the group's external senders, if all that were proposed are committed
}

// made holds the results of a step, to which later steps can refer.
type made struct {
	keyPackage, proposal, commit, welcome, tree []byte
	pskID, pskSecret                            []byte
	ciphertext, plaintext, authenticated        []byte
}

// actions has the function for each kind of step.
var actions map[string]func(*play, *Step) error

func init() {
	actions = map[string]func(*play, *Step) error{
		"createGroup":                    (*play).createGroup,
		"createKeyPackage":               (*play).createKeyPackage,
		"joinGroup":                      (*play).joinGroup,
		"externalJoin":                   (*play).externalJoin,
		"installExternalPSK":             (*play).installExternalPSK,
		"groupInfo":                      (*play).groupInfo,
		"addProposal":                    (*play).addProposal,
		"updateProposal":                 (*play).updateProposal,
		"removeProposal":                 (*play).removeProposal,
		"externalPSKProposal":            (*play).externalPSKProposal,
		"resumptionPSKProposal":          (*play).resumptionPSKProposal,
		"groupContextExtensionsProposal": (*play).extensionsProposal,
		"fullCommit":                     (*play).fullCommit,
		"commit":                         (*play).commit,
		"handleCommit":                   (*play).handleCommit,
		"handlePendingCommit":            (*play).handlePendingCommit,
		"protect":                        (*play).protect,
		"unprotect":                      (*play).unprotect,
		"reinit":                         (*play).reinit,
		"branch":                         (*play).branch,
		"newMemberAddProposal":           (*play).newMemberAddProposal,
		"addExternalSigner":              (*play).addExternalSigner,
		"externalSignerProposal":         (*play).externalSignerProposal,
	}
}

// call makes one call to an actor's peer.
func call[Q, R any](p *play, a *actor, method func(pb.MLSClientClient, context.Context, *Q, ...grpc.CallOption) (*R, error), request *Q) (*R, error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.timeout)
	defer cancel()
	response, err := method(a.peer.rpc, ctx, request)
	if err != nil {
		return nil, fmt.Errorf("%s: %T: %s", a.name, request, status.Convert(err).Message())
	}
	return response, nil
}

// who finds an actor.
func (p *play) who(name string) (*actor, error) {
	a := p.actors[name]
	if a == nil {
		return nil, fmt.Errorf("the step names no actor")
	}
	return a, nil
}

// in finds an actor who is a member.
func (p *play) in(name string) (*actor, error) {
	a, err := p.who(name)
	if err == nil && !a.member {
		err = fmt.Errorf("%s is in no group", name)
	}
	return a, err
}

// set makes an actor the member with a state.
func (a *actor) set(state uint32) { a.state, a.member = state, true }

// earlier returns a result of an earlier step, which must exist.
func (p *play) earlier(step int, what string, pick func(*made) []byte) ([]byte, error) {
	b := pick(&p.made[step])
	if b == nil {
		return nil, fmt.Errorf("step %d made no %s", step, what)
	}
	return b, nil
}

func (p *play) proposals(steps []int) ([][]byte, error) {
	list := make([][]byte, len(steps))
	for i, step := range steps {
		var err error
		if list[i], err = p.earlier(step, "proposal", func(m *made) []byte { return m.proposal }); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func extensions(list []Extension) []*pb.Extension {
	out := make([]*pb.Extension, len(list))
	for i, x := range list {
		out[i] = &pb.Extension{ExtensionType: x.Type, ExtensionData: x.Data}
	}
	return out
}

// describe converts a script's proposal into the protocol's form.
func (p *play) describe(s *Proposal) (*pb.ProposalDescription, error) {
	d := &pb.ProposalDescription{ProposalType: []byte(s.Type)}
	var err error
	switch s.Type {
	case "add":
		d.KeyPackage, err = p.earlier(s.KeyPackage, "KeyPackage", func(m *made) []byte { return m.keyPackage })
	case "remove":
		d.RemovedId = []byte(s.Removed)
	case "externalPSK":
		d.PskId, err = p.earlier(s.PSK, "PSK", func(m *made) []byte { return m.pskID })
	case "resumptionPSK":
		d.EpochId = s.Epoch
	case "groupContextExtensions":
		d.Extensions = extensions(s.Extensions)
	case "reinit":
		d.Extensions = extensions(s.Extensions)
		d.GroupId, d.CipherSuite, err = p.next(s)
	default:
		err = fmt.Errorf("proposal type %q is not known", s.Type)
	}
	return d, err
}

// next chooses the id and the suite of a group's successor. From then on KeyPackages are of that suite.
func (p *play) next(s *Proposal) ([]byte, uint32, error) {
	if s.ChangeGroupID {
		p.groupID = append(slices.Clone(p.groupID), '\'')
	}
	if !s.ChangeCipherSuite {
		return p.groupID, p.suite, nil
	}
	var common []uint32
	for _, a := range p.actors {
		if common == nil {
			common = slices.Clone(a.peer.Suites)
		}
		common = slices.DeleteFunc(common, func(cs uint32) bool { return cs == p.suite || !a.peer.supports(cs) })
	}
	if len(common) == 0 {
		return nil, 0, fmt.Errorf("the peers share no other cipher suite")
	}
	// The suite after the present one, so that all changes occur.
	at, _ := slices.BinarySearch(common, p.suite)
	p.suite = common[at%len(common)]
	return p.groupID, p.suite, nil
}

// agree checks that actors are in the same epoch: by the results of the calls that entered it, by StateAuth, and by a
// secret that each of them exports.
func (p *play) agree(authenticator []byte, names ...string) error {
	if len(authenticator) == 0 {
		return fmt.Errorf("the epoch authenticator is empty")
	}
	var secret []byte
	for _, name := range names {
		a, err := p.in(name)
		if err != nil {
			return err
		}
		auth, err := call(p, a, pb.MLSClientClient.StateAuth, &pb.StateAuthRequest{StateId: a.state})
		if err != nil {
			return err
		}
		if !bytes.Equal(auth.StateAuthSecret, authenticator) {
			return fmt.Errorf("%s has another epoch authenticator: %x, not %x", name, auth.StateAuthSecret, authenticator)
		}
		got, err := call(p, a, pb.MLSClientClient.Export, &pb.ExportRequest{StateId: a.state, Label: "interop", Context: p.groupID, KeyLength: 32})
		if err != nil {
			return err
		}
		if secret == nil {
			secret = got.ExportedSecret
		}
		if len(secret) != 32 || !bytes.Equal(secret, got.ExportedSecret) {
			return fmt.Errorf("%s exports another secret", name)
		}
	}
	return nil
}

// same checks an epoch authenticator that a call returned.
func same(name string, got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s has another epoch authenticator: %x, not %x", name, got, want)
	}
	return nil
}

// free ends all states.
func (p *play) free() (first error) {
	for _, a := range p.actors {
		if !a.member {
			continue
		}
		if _, err := call(p, a, pb.MLSClientClient.Free, &pb.FreeRequest{StateId: a.state}); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // which never fails
	return b
}

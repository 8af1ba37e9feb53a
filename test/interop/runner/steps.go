package runner

import (
	"bytes"
	"fmt"

	pb "github.com/mlsfed/mlsfed/test/interop/mlsclient"
)

// newKeyPackage asks an actor for a KeyPackage.
func (p *play) newKeyPackage(name string) ([]byte, error) {
	a, err := p.who(name)
	if err != nil {
		return nil, err
	}
	r, err := call(p, a, pb.MLSClientClient.CreateKeyPackage, &pb.CreateKeyPackageRequest{CipherSuite: p.suite, Identity: []byte(name)})
	if err != nil {
		return nil, err
	}
	for what, key := range map[string][]byte{"init": r.InitPriv, "encryption": r.EncryptionPriv, "signature": r.SignaturePriv} {
		if len(key) == 0 {
			return nil, fmt.Errorf("%s gives no %s key of its KeyPackage", name, what)
		}
	}
	a.transaction, a.joining = r.TransactionId, true
	return r.KeyPackage, nil
}

func (p *play) createKeyPackage(s *Step) (err error) {
	p.made[p.at].keyPackage, err = p.newKeyPackage(s.Actor)
	return err
}

// join makes an actor join with a Welcome.
func (p *play) join(name string, welcome, tree []byte) ([]byte, error) {
	a, err := p.who(name)
	if err != nil {
		return nil, err
	}
	if !a.joining {
		return nil, fmt.Errorf("%s has no KeyPackage", name)
	}
	r, err := call(p, a, pb.MLSClientClient.JoinGroup, &pb.JoinGroupRequest{
		TransactionId: a.transaction, Welcome: welcome, EncryptHandshake: p.private, Identity: []byte(name), RatchetTree: tree,
	})
	if err != nil {
		return nil, err
	}
	a.joining = false
	a.set(r.StateId)
	return r.EpochAuthenticator, nil
}

// joinGroup joins with the Welcome of an earlier step.
func (p *play) joinGroup(s *Step) error {
	welcome, err := p.earlier(s.Welcome, "Welcome", func(m *made) []byte { return m.welcome })
	if err != nil {
		return err
	}
	authenticator, err := p.join(s.Actor, welcome, p.made[s.Welcome].tree)
	if err != nil {
		return err
	}
	return p.agree(authenticator, s.Actor)
}

func (p *play) createGroup(s *Step) error {
	a, err := p.who(s.Actor)
	if err != nil {
		return err
	}
	p.groupID = fmt.Appendf(nil, "group-%x", randomBytes(8))
	r, err := call(p, a, pb.MLSClientClient.CreateGroup, &pb.CreateGroupRequest{
		GroupId: p.groupID, CipherSuite: p.suite, EncryptHandshake: p.private, Identity: []byte(s.Actor),
	})
	if err != nil {
		return err
	}
	a.set(r.StateId)
	if len(s.Members) == 0 {
		return nil
	}
	request := &pb.CommitRequest{StateId: a.state}
	for _, name := range s.Members {
		kp, err := p.newKeyPackage(name)
		if err != nil {
			return err
		}
		request.ByValue = append(request.ByValue, &pb.ProposalDescription{ProposalType: []byte("add"), KeyPackage: kp})
	}
	return p.commitAll(a, request, nil, s.Members)
}

// commitAll makes an actor commit, the members follow and the newcomers join.
func (p *play) commitAll(a *actor, request *pb.CommitRequest, members, joiners []string) error {
	c, err := call(p, a, pb.MLSClientClient.Commit, request)
	if err != nil {
		return err
	}
	p.made[p.at].commit, p.made[p.at].welcome, p.made[p.at].tree = c.Commit, c.Welcome, c.RatchetTree
	if !request.ExternalTree && len(c.RatchetTree) > 0 {
		return fmt.Errorf("%s gives a ratchet tree that was not asked for", a.name)
	}
	authenticator, err := p.pending(a)
	if err != nil {
		return err
	}
	for _, name := range members {
		if err := p.follow(name, request.ByReference, c.Commit, authenticator); err != nil {
			return err
		}
	}
	for _, name := range joiners {
		got, err := p.join(name, c.Welcome, c.RatchetTree)
		if err != nil {
			return err
		}
		if err := same(name, got, authenticator); err != nil {
			return err
		}
	}
	return p.agree(authenticator, append(append([]string{a.name}, members...), joiners...)...)
}

// pending makes an actor enter the epoch of its own commit.
func (p *play) pending(a *actor) ([]byte, error) {
	r, err := call(p, a, pb.MLSClientClient.HandlePendingCommit, &pb.HandlePendingCommitRequest{StateId: a.state})
	if err != nil {
		return nil, err
	}
	a.set(r.StateId)
	return r.EpochAuthenticator, nil
}

// follow makes a member process a commit.
func (p *play) follow(name string, proposals [][]byte, commit, authenticator []byte) error {
	a, err := p.in(name)
	if err != nil {
		return err
	}
	r, err := call(p, a, pb.MLSClientClient.HandleCommit, &pb.HandleCommitRequest{StateId: a.state, Proposal: proposals, Commit: commit})
	if err != nil {
		return err
	}
	a.set(r.StateId)
	if authenticator == nil {
		return nil
	}
	return same(name, r.EpochAuthenticator, authenticator)
}

// request returns the request for a commit.
func (p *play) request(a *actor, s *Step) (*pb.CommitRequest, error) {
	r := &pb.CommitRequest{StateId: a.state, ForcePath: s.path(), ExternalTree: s.tree()}
	var err error
	if r.ByReference, err = p.proposals(s.ByReference); err != nil {
		return nil, err
	}
	for i := range s.ByValue {
		d, err := p.describe(&s.ByValue[i])
		if err != nil {
			return nil, err
		}
		r.ByValue = append(r.ByValue, d)
	}
	return r, nil
}

func (p *play) fullCommit(s *Step) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	request, err := p.request(a, s)
	if err != nil {
		return err
	}
	return p.commitAll(a, request, s.Members, s.Joiners)
}

// commit only creates a commit: handlePendingCommit, handleCommit and joinGroup follow.
func (p *play) commit(s *Step) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	request, err := p.request(a, s)
	if err != nil {
		return err
	}
	c, err := call(p, a, pb.MLSClientClient.Commit, request)
	if err != nil {
		return err
	}
	p.made[p.at].commit, p.made[p.at].welcome, p.made[p.at].tree = c.Commit, c.Welcome, c.RatchetTree
	return nil
}

func (p *play) handlePendingCommit(s *Step) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	authenticator, err := p.pending(a)
	if err != nil {
		return err
	}
	return p.agree(authenticator, s.Actor)
}

func (p *play) handleCommit(s *Step) error {
	commit, err := p.earlier(s.Commit, "commit", func(m *made) []byte { return m.commit })
	if err != nil {
		return err
	}
	proposals, err := p.proposals(s.ByReference)
	if err != nil {
		return err
	}
	return p.follow(s.Actor, proposals, commit, nil)
}

// info asks a member for a GroupInfo.
func (p *play) info(name string, externalTree bool) (*pb.GroupInfoResponse, error) {
	a, err := p.in(name)
	if err != nil {
		return nil, err
	}
	r, err := call(p, a, pb.MLSClientClient.GroupInfo, &pb.GroupInfoRequest{StateId: a.state, ExternalTree: externalTree})
	if err == nil && externalTree && len(r.RatchetTree) == 0 {
		err = fmt.Errorf("%s gives no ratchet tree", name)
	}
	return r, err
}

func (p *play) groupInfo(s *Step) error {
	_, err := p.info(s.Actor, s.tree())
	return err
}

func (p *play) externalJoin(s *Step) error {
	info, err := p.info(s.Actor, s.tree())
	if err != nil {
		return err
	}
	joiner, err := p.who(s.Joiner)
	if err != nil {
		return err
	}
	request := &pb.ExternalJoinRequest{
		GroupInfo: info.GroupInfo, RatchetTree: info.RatchetTree, EncryptHandshake: p.private, Identity: []byte(s.Joiner), RemovePrior: s.RemovePrior,
	}
	for _, step := range s.PSKs {
		if _, err := p.earlier(step, "PSK", func(m *made) []byte { return m.pskID }); err != nil {
			return err
		}
		request.Psks = append(request.Psks, &pb.PreSharedKey{PskId: p.made[step].pskID, PskSecret: p.made[step].pskSecret})
	}
	r, err := call(p, joiner, pb.MLSClientClient.ExternalJoin, request)
	if err != nil {
		return err
	}
	joiner.set(r.StateId)
	p.made[p.at].commit = r.Commit
	members := append([]string{s.Actor}, s.Members...)
	for _, name := range members {
		if err := p.follow(name, nil, r.Commit, r.EpochAuthenticator); err != nil {
			return err
		}
	}
	return p.agree(r.EpochAuthenticator, append(members, s.Joiner)...)
}

func (p *play) installExternalPSK(s *Step) error {
	m := &p.made[p.at]
	m.pskID, m.pskSecret = randomBytes(32), randomBytes(32)
	for _, name := range s.Clients {
		a, err := p.who(name)
		if err != nil {
			return err
		}
		id := a.transaction
		if a.member {
			id = a.state
		} else if !a.joining {
			return fmt.Errorf("%s is in no group and joins none", name)
		}
		if _, err := call(p, a, pb.MLSClientClient.StorePSK, &pb.StorePSKRequest{StateOrTransactionId: id, PskId: m.pskID, PskSecret: m.pskSecret}); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) protect(s *Step) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	m := &p.made[p.at]
	m.plaintext, m.authenticated = []byte(s.Plaintext), []byte(s.AuthenticatedData)
	r, err := call(p, a, pb.MLSClientClient.Protect, &pb.ProtectRequest{StateId: a.state, AuthenticatedData: m.authenticated, Plaintext: m.plaintext})
	if err != nil {
		return err
	}
	m.ciphertext = r.Ciphertext
	return nil
}

func (p *play) unprotect(s *Step) error {
	a, err := p.in(s.Actor)
	if err != nil {
		return err
	}
	ciphertext, err := p.earlier(s.Ciphertext, "ciphertext", func(m *made) []byte { return m.ciphertext })
	if err != nil {
		return err
	}
	r, err := call(p, a, pb.MLSClientClient.Unprotect, &pb.UnprotectRequest{StateId: a.state, Ciphertext: ciphertext})
	if err != nil {
		return err
	}
	m := &p.made[s.Ciphertext]
	if !bytes.Equal(r.Plaintext, m.plaintext) || !bytes.Equal(r.AuthenticatedData, m.authenticated) {
		return fmt.Errorf("%s reads %q with %q, sent was %q with %q", s.Actor, r.Plaintext, r.AuthenticatedData, m.plaintext, m.authenticated)
	}
	return nil
}

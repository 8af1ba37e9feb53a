package mlscore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
)

var errFault = errors.New("nothing can be read")

// faults makes one read fail: of randomness, or of the store.
type faults struct {
	*MemoryStore
	at, count int
	struck    bool // the read has failed in the present operation
}

func (f *faults) next() error {
	if f.count++; f.count == f.at {
		f.struck = true
		return errFault
	}
	return nil
}

func (f *faults) Read(b []byte) (int, error) {
	if err := f.next(); err != nil {
		return 0, err
	}
	return rand.Read(b)
}

func (f *faults) Get(key []byte) ([]byte, bool, error) {
	if err := f.next(); err != nil {
		return nil, false, err
	}
	return f.MemoryStore.Get(key)
}

func (f *faults) Scan(prefix []byte, visit func(key, value []byte) error) error {
	if err := f.next(); err != nil {
		return err
	}
	return f.MemoryStore.Scan(prefix, visit)
}

// attempt makes an operation. If a read fails in it, the operation must return an error, change nothing, and succeed
// the next time.
func attempt[T any](t *testing.T, f *faults, what string, op func() (T, error)) T {
	t.Helper()
	records := dump(t, f.MemoryStore)
	f.struck = false
	v, err := op()
	if f.struck {
		if !errors.Is(err, errFault) {
			t.Fatalf("%s: reading %d went wrong, and the operation gave %v", what, f.at, err)
		}
		for k, v := range dump(t, f.MemoryStore) {
			if records[k] != v {
				t.Fatalf("%s: reading %d went wrong, and the store changed", what, f.at)
			}
		}
		v, err = op()
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return v
}

// TestFaults checks that each failing read of the store or of randomness is an error of the operation that needed it,
// and that the operation then changes nothing.
func TestFaults(t *testing.T) {
	for _, public := range []bool{false, true} {
		for at, more := 1, true; more; at++ {
			f := &faults{MemoryStore: NewMemoryStore(), at: at}
			faultyLife(t, f, public)
			more = f.count >= at
			if !more && at < 40 {
				t.Errorf("a whole life had only %d readings", at-1)
			}
		}
	}
}

// faultyLife makes alice, whose reads may fail, run all operations that need randomness or the store.
func faultyLife(t *testing.T, f *faults, public bool) {
	t.Helper()
	// Only alice's operations are attempted: her keys are made before a read can fail.
	alice := newPerson(t, "alice", labSuite)
	cfg := alice.cfg
	cfg.Store, cfg.Rand = f, f
	alice.Client = must[*Client](t)(NewClient(cfg))
	bob := newPerson(t, "bob", labSuite)
	options := GroupOptions{PublicHandshakes: public}
	done := func(err error) (struct{}, error) { return struct{}{}, err }

	attempt(t, f, "make a signature key", func() ([]byte, error) {
		_, pub, err := GenerateSignatureKey(f, labSuite)
		return pub, err
	})
	alice.group = attempt(t, f, "create a group", func() (*Group, error) {
		return alice.CreateGroup(alice.id, nil, CreateOptions{GroupOptions: options})
	})
	for _, p := range []*person{alice, bob} {
		if err := p.StorePSK([]byte("psk"), NewSecret([]byte("shared"))); err != nil {
			t.Fatal(err)
		}
	}
	psk := attempt(t, f, "propose a PSK", func() (Proposal, error) { return alice.group.ExternalPSK([]byte("psk")) })
	merge := func(c *Commit) {
		t.Helper()
		attempt(t, f, "merge", func() (struct{}, error) { return done(alice.group.Merge(c.Staged)) })
	}
	commit := func(what string, opts CommitOptions) *Commit {
		t.Helper()
		opts.WelcomeInfo.Tree = true
		return attempt(t, f, what, func() (*Commit, error) { return alice.group.Commit(opts) })
	}
	added := commit("commit an Add and a PSK", CommitOptions{Proposals: []Proposal{AddProposal(bob.keyPackage(t)), psk}})
	merge(added)
	bob.group = must[*Group](t)(bob.Join(added.Welcome, JoinOptions{GroupOptions: options}))
	pathless := commit("commit nothing", CommitOptions{})
	bob.receive(t, pathless.Message)
	merge(pathless)

	protect := func() []byte {
		return attempt(t, f, "protect", func() ([]byte, error) { return alice.group.Protect([]byte("hello"), MessageOptions{}) })
	}
	bob.receive(t, protect())
	update := attempt(t, f, "propose an Update", func() ([]byte, error) {
		return alice.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	})
	bob.receive(t, update)
	process := func(msg []byte) *Received {
		return attempt(t, f, "process", func() (*Received, error) { return alice.group.Process(msg) })
	}
	committed := must[*Commit](t)(bob.group.Commit(CommitOptions{}))
	r := process(committed.Message)
	if err := bob.group.Merge(committed.Staged); err != nil {
		t.Fatal(err)
	}
	attempt(t, f, "merge", func() (struct{}, error) { return done(alice.group.Merge(r.Commit)) })
	hello := must[[]byte](t)(bob.group.Protect([]byte("hello"), MessageOptions{}))
	if got := process(hello).Application; got == nil || !bytes.Equal(got.Data, []byte("hello")) {
		t.Fatalf("got %+v", got)
	}
	attempt(t, f, "make a GroupInfo", func() ([]byte, error) {
		return alice.group.GroupInfo(GroupInfoOptions{Tree: true, External: true})
	})

	// Waiting objects are stored too: a proposal, an Update, a commit.
	attempt(t, f, "propose an Update", func() ([]byte, error) {
		return alice.group.ProposeUpdate(LeafUpdate{}, ProposeOptions{})
	})
	commit("commit, to be loaded", CommitOptions{})
	attempt(t, f, "list groups", func() (int, error) {
		ids, err := alice.Groups()
		return len(ids), err
	})
	alice.group = attempt(t, f, "load the group", func() (*Group, error) { return alice.LoadGroup(alice.group.GroupID()) })

	branch := attempt(t, f, "branch", func() (*Founding, error) {
		return alice.group.Branch([]byte("branch"), FoundOptions{CreateOptions: CreateOptions{GroupOptions: options}, KeyPackages: []*KeyPackage{bob.keyPackage(t)}, WelcomeInfo: GroupInfoOptions{Tree: true}})
	})
	_ = must[*Group](t)(bob.Join(branch.Welcome, JoinOptions{GroupOptions: options}))

	faultyJoins(t, f, alice, bob, options)
}

// faultyJoins makes alice enter groups in all ways.
func faultyJoins(t *testing.T, f *faults, alice, bob *person, options GroupOptions) {
	t.Helper()
	other := must[*Group](t)(bob.CreateGroup(bob.id, []byte("other"), CreateOptions{GroupOptions: options}))
	info := must[[]byte](t)(other.GroupInfo(GroupInfoOptions{Tree: true, External: true}))
	external := attempt(t, f, "make an external commit", func() (*ExternalCommit, error) {
		return alice.ExternalJoin(alice.id, info, ExternalOptions{GroupOptions: options, PSKs: []PreSharedKeyID{{Type: PSKExternal, ID: []byte("psk")}}})
	})
	_ = must[*Received](t)(other.Process(external.Message))
	attempt(t, f, "complete it", func() (*Group, error) { return external.Complete() })

	context := other.Public().Context()
	attempt(t, f, "ask to be added", func() (*KeyPackage, error) {
		_, kp, err := alice.ProposeSelf(alice.id, context, KeyPackageOptions{})
		return kp, err
	})
	kp := attempt(t, f, "make a KeyPackage", func() (*KeyPackage, error) { return alice.NewKeyPackage(alice.id, KeyPackageOptions{}) })
	third := must[*Group](t)(bob.CreateGroup(bob.id, []byte("third"), CreateOptions{GroupOptions: options}))
	welcome := must[*Commit](t)(third.Commit(CommitOptions{Proposals: []Proposal{AddProposal(kp)}, WelcomeInfo: GroupInfoOptions{Tree: true}})).Welcome
	attempt(t, f, "export a KeyPackage", func() (*KeyPackage, error) {
		kp, _, err := alice.ExportKeyPackage(must[[]byte](t)(kp.Ref()))
		return kp, err
	})
	w := attempt(t, f, "open a Welcome", func() (*StagedWelcome, error) {
		return alice.OpenWelcome(welcome, JoinOptions{GroupOptions: options})
	})
	attempt(t, f, "join", func() (*Group, error) { return w.Join() })

	// A group that comes from another store, and goes back.
	fourth := must[*Group](t)(bob.CreateGroup(bob.id, []byte("fourth"), CreateOptions{GroupOptions: options}))
	offer := attempt(t, f, "offer to import", func() ([]byte, error) { return alice.OfferImport(labSuite) })
	moved := must[[]byte](t)(fourth.MoveOut(offer))
	here := attempt(t, f, "import a group", func() (*Group, error) { return alice.ImportGroup(moved) })
	back := must[[]byte](t)(bob.OfferImport(labSuite))
	moved = attempt(t, f, "move a group out", func() ([]byte, error) { return here.MoveOut(back) })
	_ = must[*Group](t)(bob.ImportGroup(moved))
}

package delivery

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// largeFloor is a group of the same members in package mlscore alone: one member commits and one follows.
type largeFloor struct {
	s      *simulatedMembers
	dir    string
	first  *mlscore.Group
	second *mlscore.Group
	joined int
}

func newLargeFloor(s *simulatedMembers, dir string) (*largeFloor, error) {
	f := &largeFloor{s: s, dir: dir}
	founder, err := s.newClient()
	if err != nil {
		return nil, err
	}
	id, err := s.identity(f.device("founder"))
	if err != nil {
		return nil, err
	}
	if f.first, err = founder.CreateGroup(id, nil, mlscore.CreateOptions{}); err != nil {
		return nil, err
	}
	c, kp, err := f.newMember()
	if err != nil {
		return nil, err
	}
	made, err := f.make(append([]*mlscore.KeyPackage{kp}, s.made...)...)
	if err != nil {
		return nil, err
	}
	f.second, err = c.Join(made.Welcome, mlscore.JoinOptions{})
	return f, err
}

func (f *largeFloor) device(name string) wire.DeviceID {
	return wire.DeviceID("mimi://" + string(f.s.domain) + "/d/floor/" + name)
}

func (f *largeFloor) newMember() (*mlscore.Client, *mlscore.KeyPackage, error) {
	c, err := f.s.newClient()
	if err != nil {
		return nil, nil, err
	}
	f.joined++
	kp, _, err := f.s.keyPackage(c, f.device(fmt.Sprint("member", f.joined)))
	return c, kp, err
}

// make creates a commit that adds members, and merges it.
func (f *largeFloor) make(add ...*mlscore.KeyPackage) (*mlscore.Commit, error) {
	var proposals []mlscore.Proposal
	for _, kp := range add {
		proposals = append(proposals, mlscore.AddProposal(kp))
	}
	c, err := f.first.Commit(mlscore.CommitOptions{Proposals: proposals, WelcomeInfo: mlscore.GroupInfoOptions{Tree: true}})
	if err != nil {
		return nil, err
	}
	return c, f.first.Merge(c.Staged)
}

// follow processes a commit.
func (f *largeFloor) follow(g *mlscore.Group, message []byte) error {
	r, err := g.Process(message)
	if err != nil {
		return err
	}
	return g.Merge(r.Commit)
}

// commit creates a commit, and processes it at the other member. It returns the costs of both, with the bytes.
func (f *largeFloor) commit() (made, taken sample, err error) {
	var c *mlscore.Commit
	made, err = sampled(func() (err error) {
		if c, err = f.make(); err != nil {
			return err
		}
		return f.bytes(c.Message, 4) // in the device's store, at its node as a file and as a blob, and at the other node
	})
	if err != nil {
		return made, taken, err
	}
	taken, err = f.followed(f.second, c.Message)
	return made, taken, err
}

// followed returns the costs of processing a commit of another member.
func (f *largeFloor) followed(g *mlscore.Group, message []byte) (sample, error) {
	return sampled(func() error { return errors.Join(f.follow(g, message), f.bytes(message, 0)) })
}

// text protects a message and opens it.
func (f *largeFloor) text() (sample, error) {
	return sampled(func() error {
		m, err := f.first.Protect([]byte("to all"), mlscore.MessageOptions{})
		if err == nil {
			err = f.bytes(m, 3) // in the device's store, and in a mailbox of each node
		}
		if err == nil {
			_, err = f.second.Process(m)
		}
		return err
	})
}

// join adds a member, makes a number of commits after that, and measures the time that the member takes to join and
// to follow.
func (f *largeFloor) join(missed int) (sample, error) {
	c, kp, err := f.newMember()
	if err != nil {
		return sample{}, err
	}
	made, err := f.make(kp)
	if err == nil {
		err = f.follow(f.second, made.Message)
	}
	if err != nil {
		return sample{}, err
	}
	var g *mlscore.Group
	took, err := sampled(func() (err error) {
		if g, err = c.Join(made.Welcome, mlscore.JoinOptions{}); err != nil {
			return err
		}
		return f.bytes(made.Welcome, 1)
	})
	for i := 0; i < missed && err == nil; i++ {
		var next *mlscore.Commit
		if next, err = f.make(); err == nil {
			err = f.follow(f.second, next.Message)
		}
		if err != nil {
			break
		}
		var one sample
		one, err = f.followed(g, next.Message)
		took = took.plus(one)
	}
	return took, err
}

// bytes hashes bytes, and writes them to a number of files on the measured disk.
func (f *largeFloor) bytes(b []byte, copies int) error {
	_ = sha256.Sum256(b)
	for range copies {
		if err := f.copy(b); err != nil {
			return err
		}
	}
	return nil
}

func (f *largeFloor) copy(b []byte) error {
	file, err := os.Create(filepath.Join(f.dir, "floor"))
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	return errors.Join(err, file.Sync(), file.Close())
}

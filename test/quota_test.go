package test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/cluster"
	"github.com/mlsfed/mlsfed/internal/platform/disktest"
	"github.com/mlsfed/mlsfed/wire"
)

// scaled returns the size of a test: least if MLSFED_LONG is not set.
func scaled(least, whole int) int {
	if os.Getenv("MLSFED_LONG") == "" {
		return least
	}
	return whole
}

// usage returns the size of the files below a folder, in bytes.
func usage(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// until polls until f returns nil; the test ends otherwise when ctx does.
func until(ctx context.Context, t *testing.T, what string, f func() error) {
	t.Helper()
	err := f()
	for err != nil && pause(ctx, 50*time.Millisecond) {
		err = f()
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestLongUploadsStayWithinTheQuota checks that unfinished uploads are refused for conversations that do not exist,
// and bounded for each user, and that another user's uploads continue.
func TestLongUploadsStayWithinTheQuota(t *testing.T) {
	dir := t.TempDir()
	c := newClusterIn(t, dir, cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Files.File, cfg.Files.Total, cfg.Quota.Uploads = 1<<20, 2<<20, 3<<20
	}}, "a.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer m.close()
	before := usage(t, filepath.Join(dir, "a.example", "data", "files"))
	piece := make([]byte, 1<<20-1) // one byte short of the whole
	begin := func(s *rawSession) wire.ConversationID {
		id, token := random16(), wire.Token(random16())
		if err := s.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: token}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.createWith(ctx, wire.ConversationID(id[:]), wire.Address{Organization: "a.example", Token: token}); err != nil {
			t.Fatal(err)
		}
		until(ctx, t, "the device reads its conversation", func() error {
			a := new(wire.ConversationsAnswer)
			err := s.ask(ctx, wire.MethodConversations, nil, a)
			if err == nil && len(a.Conversations) == 0 {
				err = errors.New("no conversation")
			}
			return err
		})
		return wire.ConversationID(id[:])
	}
	put := func(s *rawSession, id wire.ConversationID, i int) error {
		ref := wire.BlobRef{Hash: sha256.Sum256(binary.BigEndian.AppendUint64([]byte(s.device), uint64(i))), Size: 1 << 20}
		return s.ask(ctx, wire.MethodPutBlob, &wire.PutBlobRequest{Conversation: id, Blob: ref, Data: piece}, new(wire.PutBlobAnswer))
	}
	if err := put(m, "no such conversation", 0); err == nil {
		t.Error("an upload for a conversation that does not exist is taken")
	}
	own := begin(m)
	taken, tries := 0, scaled(12, 60)
	for i := range tries {
		err := put(m, own, i)
		if err == nil {
			taken++
		} else if wire.CodeOf(err) != wire.Quota {
			t.Fatalf("upload %d: %v", i, err)
		}
	}
	if taken != 2 {
		t.Errorf("%d of %d uploads of a mebibyte were taken, quota.uploads is 3 MiB", taken, tries)
	}
	if n := usage(t, filepath.Join(dir, "a.example", "data", "files")) - before; n > 3<<20 {
		t.Errorf("one device has the node store %d bytes of unfinished uploads", n)
	}
	other := rawDevice(ctx, t, c, "a.example", "alice", func(*wire.Push) {})
	defer other.close()
	if err := put(other, begin(other), 0); err != nil {
		t.Errorf("another user: %v", err)
	}
	s := c.Node("a.example").Status().Storage
	if len(s.Users) == 0 || s.Users[0].Owner != "mimi://a.example/u/mallory" || s.Refused["parts"] == 0 {
		t.Errorf("the status does not name who has most: %+v", s)
	}
}

// spend makes a device found conversations with invented addresses of b.example until it is refused.
func spend(ctx context.Context, t *testing.T, m *rawSession, most int) (n int, refusal error) {
	t.Helper()
	for range most {
		id := random16()
		if err := m.createWith(ctx, wire.ConversationID(id[:]), wire.Address{Organization: "b.example", Token: wire.Token(random16())}); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// reaches checks that alice can still open a conversation with bob of b.example.
func reaches(ctx context.Context, t *testing.T, alice, bob *client.Device) {
	t.Helper()
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://b.example/u/bob")
	until(ctx, t, "bob is in alice's conversation", func() error {
		list, err := bob.Conversations(ctx)
		if err == nil && len(list) == 0 {
			err = errors.New("bob has no conversation")
		}
		return err
	})
}

// TestLongOneDeviceDoesNotSpendTheQuota checks that one device cannot use up what a peer grants to an organization.
// The device's own node limits it by rate and number.
func TestLongOneDeviceDoesNotSpendTheQuota(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*config.Config)
		want wire.Code
	}{
		{"number", func(cfg *config.Config) { cfg.Quota.Conversations = 20 }, wire.Quota},
		{"rate", func(cfg *config.Config) { cfg.Rates.Conversations = config.Rate{Burst: 20, PerMinute: 1} }, wire.Busy},
		// The peer's rate of invitations is for the whole organization: one user can use no more of it than that
		// user's own rate.
		{"rate of invitations", func(cfg *config.Config) {
			cfg.Rates.Conversations, cfg.Rates.Invitations = config.Rate{Burst: 20, PerMinute: 1}, config.Rate{Burst: 30, PerMinute: 1}
		}, wire.Busy},
	}[:scaled(1, 3)] {
		t.Run(c.name, func(t *testing.T) {
			f := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
				cfg.Consensus.PerOrganization = 40
				c.edit(cfg)
			}}, "a.example", "b.example")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			alice, bob := device(t, f, "a.example", "alice", "phone"), device(t, f, "b.example", "bob", "phone")
			m := rawDevice(ctx, t, f, "a.example", "mallory", func(*wire.Push) {})
			defer m.close()
			if n, err := spend(ctx, t, m, 60); n != 20 || wire.CodeOf(err) != c.want {
				t.Errorf("one device founded %d conversations, wanted 20 and then %q: %v", n, c.want, err)
			}
			reaches(ctx, t, alice, bob)
		})
	}
}

// TestLongInventedAddressesAreGivenBack checks an organization whose node does not limit its devices and which fills
// its quota at a peer with invented addresses. The peer releases these addresses, and the organization's real
// conversations succeed.
func TestLongInventedAddressesAreGivenBack(t *testing.T) {
	quota := scaled(10, 100)
	c := newClusterIn(t, t.TempDir(), cluster.Options{Edit: func(cfg *config.Config) {
		cfg.Consensus.PerOrganization, cfg.Consensus.Unowned = quota, config.Duration(2*time.Second)
		if cfg.Domain == "a.example" {
			cfg.Rates.Conversations, cfg.Quota.Conversations = config.Rate{}, 0
		} else {
			cfg.Rates.Invitations = config.Rate{} // the test is about the quota, which a's invitations fill repeatedly
		}
	}}, "a.example", "b.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
	m := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
	defer m.close()
	if n, err := spend(ctx, t, m, 2*quota); err != nil {
		t.Fatalf("after %d: %v", n, err)
	}
	until(ctx, t, "the quota is full", func() error {
		if n := len(c.Node("b.example").Status().Conversations); n < quota/2 {
			return fmt.Errorf("b.example holds %d conversations", n)
		}
		return nil
	})
	reaches(ctx, t, alice, bob)
	until(ctx, t, "invented addresses are given back", func() error {
		if n := len(c.Node("b.example").Status().Conversations); n != 1 {
			return fmt.Errorf("b.example holds %d conversations", n)
		}
		return nil
	})
}

// pushBlob offers content to a node as the ordering streams do, and reports whether the node stored it.
func (e *evil) pushBlob(to wire.NodeID, id wire.ConversationID, content []byte) (stored bool, err error) {
	type request struct {
		Op           uint8               `cbor:"1,keyasint"`
		Conversation wire.ConversationID `cbor:"2,keyasint"`
		Ref          wire.BlobRef        `cbor:"3,keyasint"`
	}
	q, err := wire.Encode(&request{1, id, wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}})
	if err != nil {
		return false, err
	}
	conn, err := e.f.Dial(context.Background(), to)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return false, err
	}
	if _, err := conn.Write(append([]byte("mlsfed consensus 1 B"), append(binary.BigEndian.AppendUint32(nil, uint32(len(q))), q...)...)); err != nil {
		return false, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil || answer[0] != 1 {
		return answer[0] == 0 && err == nil, err
	}
	_, _ = conn.Write(content) // a node that refuses may end the stream before it has read all
	_, err = io.ReadFull(conn, answer[:])
	return err == nil && answer[0] == 0, nil
}

// TestLongStrangersBlobsStayWithinTheQuota checks that the data which an organization makes another node store is
// bounded, for invented conversations and for real ones in which it takes part.
func TestLongStrangersBlobsStayWithinTheQuota(t *testing.T) {
	const limit, size = 20 << 20, 8 << 20
	dir := t.TempDir()
	c := newClusterIn(t, dir, cluster.Options{Edit: func(cfg *config.Config) { cfg.Quota.Organization = limit }}, "a.example", "mallory.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alice, dave := device(t, c, "a.example", "alice", "phone"), device(t, c, "mallory.example", "dave", "phone")
	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
	if err != nil {
		t.Fatal(err)
	}
	add(ctx, t, alice, id, "mimi://mallory.example/u/dave")
	until(ctx, t, "dave is in", func() error {
		list, err := dave.Conversations(ctx)
		if err == nil && len(list) == 0 {
			err = errors.New("dave has no conversation")
		}
		return err
	})
	if err := c.StopDevice(dave); err != nil {
		t.Fatal(err)
	}
	ev := newEvil(t, c, "mallory.example")
	invented := wire.ConversationID("made up by mallory")
	if err := ev.invite("n1.a.example", invented, 0, "n1.mallory.example"); err != nil {
		t.Logf("an invitation by mallory alone: %v", err)
	}
	before, stored := usage(t, filepath.Join(dir, "a.example", "data", "blobs")), 0
	for i := range 8 {
		content := make([]byte, size)
		binary.BigEndian.PutUint64(content, uint64(i))
		took, err := ev.pushBlob("n1.a.example", []wire.ConversationID{id, invented}[i%2], content)
		if err != nil {
			t.Fatal(err)
		}
		if took {
			stored++
		}
	}
	if stored == 0 || stored > limit/size {
		t.Errorf("%d blobs of 8 MiB were stored, the quota is 20 MiB", stored)
	}
	if n := usage(t, filepath.Join(dir, "a.example", "data", "blobs")) - before; n > limit {
		t.Errorf("%d bytes are stored for mallory.example, its quota is %d", n, limit)
	}
	s := c.Node("a.example").Status().Storage
	if len(s.Organizations) != 1 || s.Organizations[0].Owner != "mallory.example" || s.Organizations[0].By["blobs"] < size {
		t.Errorf("the status does not say what mallory.example has stored: %+v", s)
	}
	if err := alice.Rename(ctx, id, "Dinner"); wire.CodeOf(err) == wire.Quota {
		t.Errorf("the own organization is refused: %v", err)
	}
}

// smallDisk creates a separate file system for an organization's node.
func smallDisk(t *testing.T, dir string, size int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	disktest.Mount(t, dir, size)
}

// fillDisk writes a file until the disk has no free byte left.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 1; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 16
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLongFullDisk checks that a node whose disk is completely full refuses writes of devices, keeps running, and
// accepts writes when there is room again. Nothing that was accepted is lost.
func TestLongFullDisk(t *testing.T) {
	for _, backend := range []string{"bolt", "pebble"}[:scaled(1, 2)] {
		t.Run(backend, func(t *testing.T) {
			dir := t.TempDir()
			smallDisk(t, filepath.Join(dir, "a.example"), 256<<20)
			c := newClusterIn(t, dir, cluster.Options{Edit: func(cfg *config.Config) {
				cfg.Consensus.Log, cfg.Quota.Reserve, cfg.Quota.ReservePercent = backend, 64<<20, 0
			}}, "a.example", "b.example")
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			alice, bob := device(t, c, "a.example", "alice", "phone"), device(t, c, "b.example", "bob", "phone")
			m := rawDevice(ctx, t, c, "a.example", "mallory", func(*wire.Push) {})
			defer m.close()
			id, err := alice.Create(ctx, client.CreateOptions{Name: "Full"})
			if err != nil {
				t.Fatal(err)
			}
			add(ctx, t, alice, id, "mimi://b.example/u/bob")
			has := func(d *client.Device, text string) func() error {
				return func() error {
					page, err := d.History(ctx, id, client.Query{Limit: 100})
					if err == nil && !slices.ContainsFunc(page.Messages, func(m client.Message) bool { return m.Content.Text == text }) {
						err = fmt.Errorf("no %q", text)
					}
					return err
				}
			}
			say := func(d *client.Device, text string) {
				t.Helper()
				if _, err := d.SendText(ctx, id, text); err != nil {
					t.Fatal(err)
				}
			}
			until(ctx, t, "bob is in", func() error {
				_, err := bob.Conversation(ctx, id)
				return err
			})
			say(alice, "before")
			until(ctx, t, "bob reads", has(bob, "before"))

			ballast := filepath.Join(dir, "a.example", "ballast")
			fillDisk(t, ballast)
			err = m.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: wire.Token(random16())}, nil)
			if wire.CodeOf(err) != wire.Unavailable {
				t.Fatalf("a write with a full disk: %v, wanted unavailable", err)
			}
			if err := m.ask(ctx, wire.MethodConversations, nil, new(wire.ConversationsAnswer)); err != nil {
				t.Fatalf("a read with a full disk: %v", err)
			}
			say(bob, "while the disk is full") // waits in b.example's outbox
			say(alice, "from the full node")   // waits on alice's device
			for i := range 20 {
				if err := bob.Rename(ctx, id, fmt.Sprintf("Full %d", i)); err != nil && wire.CodeOf(err) != wire.NoQuorum {
					t.Logf("rename %d: %v", i, err)
					break
				}
			}
			s := c.Node("a.example").Status()
			if s.Storage.Refused["disk"] == 0 || s.Storage.Free >= s.Storage.Reserve {
				t.Errorf("the status does not say that the disk is full: %+v", s.Storage)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			until(ctx, t, "alice reads what waited", has(alice, "while the disk is full"))
			until(ctx, t, "bob reads what waited", has(bob, "from the full node"))
			if err := m.ask(ctx, wire.MethodAddress, &wire.AddressRequest{Token: wire.Token(random16())}, nil); err != nil {
				t.Fatalf("a write when there is room again: %v", err)
			}
		})
	}
}

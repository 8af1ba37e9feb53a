package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/wire"
)

func refOf(content []byte) wire.BlobRef {
	return wire.BlobRef{Hash: sha256.Sum256(content), Size: uint64(len(content))}
}

// The devices of these tests.
const (
	mallory       wire.DeviceID = "mimi://a.example/d/mallory/phone"
	malloryTablet wire.DeviceID = "mimi://a.example/d/mallory/tablet"
	bystander     wire.DeviceID = "mimi://a.example/d/alice/phone"
)

func openFilesIn(t *testing.T, dir string, limit, total uint64, account *quota.Account) *files {
	t.Helper()
	f, err := openFiles(dir, limit, total, time.Hour, testBindings(t), time.Now, account)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func openTestFiles(t *testing.T, limit, total uint64) *files {
	t.Helper()
	return openFilesIn(t, t.TempDir(), limit, total, quota.New(quota.Limits{}, nil))
}

// TestUploadInPieces checks pieces that come twice, out of order, after a pause, and a piece with wrong content.
func TestUploadInPieces(t *testing.T) {
	f := openTestFiles(t, 1<<20, 1<<30)
	content := bytes.Repeat([]byte("0123456789"), 100)
	ref := refOf(content)
	put := func(offset, n int) uint64 {
		t.Helper()
		a, err := f.put(t.Context(), mallory, &wire.PutBlobRequest{Conversation: "conversation-one", Blob: ref, Offset: uint64(offset), Data: content[offset : offset+n]})
		if err != nil {
			t.Fatal(err)
		}
		return a.Stored
	}
	for _, step := range []struct {
		offset, n int
		want      uint64
	}{{0, 0, 0}, {0, 300, 300}, {0, 300, 300}, {600, 100, 300}, {200, 300, 500}, {500, 0, 500}, {500, 500, 1000}, {0, 10, 1000}} {
		if got := put(step.offset, step.n); got != step.want {
			t.Fatalf("after %d bytes at %d: %d stored, wanted %d", step.n, step.offset, got, step.want)
		}
	}
	if n := partsOf(t, f, mallory); n != 0 {
		t.Fatalf("%d parts are left", n)
	}
	var back []byte
	for len(back) < len(content) {
		a, err := f.get(t.Context(), talkOne, ref, uint64(len(back)))
		if err != nil || len(a.Data) == 0 {
			t.Fatal(err)
		}
		back = append(back, a.Data...)
	}
	if !bytes.Equal(back, content) {
		t.Fatal("another content came back")
	}
	_, err := f.get(t.Context(), talkOne, ref, ref.Size+1)
	wantCode(t, err, wire.Malformed)
	_, err = f.get(t.Context(), talkOne, refOf([]byte("never")), 0)
	wantCode(t, err, wire.BlobMissing)
}

func TestUploadsAreRefused(t *testing.T) {
	f := openTestFiles(t, 1000, 1500)
	content := bytes.Repeat([]byte{7}, 1000)
	for name, c := range map[string]struct {
		q    wire.PutBlobRequest
		want wire.Code
	}{
		"empty":          {wire.PutBlobRequest{Blob: wire.BlobRef{}}, wire.TooLarge},
		"over the limit": {wire.PutBlobRequest{Blob: wire.BlobRef{Size: 1001}}, wire.TooLarge},
		"behind the end": {wire.PutBlobRequest{Blob: wire.BlobRef{Size: 10}, Offset: 11}, wire.Malformed},
		"over the end":   {wire.PutBlobRequest{Blob: wire.BlobRef{Size: 10}, Offset: 5, Data: make([]byte, 6)}, wire.Malformed},
		"another hash":   {wire.PutBlobRequest{Blob: wire.BlobRef{Size: 10}, Data: make([]byte, 10)}, wire.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.put(t.Context(), mallory, &c.q)
			wantCode(t, err, c.want)
		})
	}
	whole := wire.PutBlobRequest{Blob: refOf(content), Data: content} // at the limit
	if _, err := f.put(t.Context(), mallory, &whole); err != nil {
		t.Fatal(err)
	}
	more := bytes.Repeat([]byte{8}, 1000)
	_, err := f.put(t.Context(), mallory, &wire.PutBlobRequest{Blob: refOf(more), Data: more})
	wantCode(t, err, wire.Quota)
	_, release, err := f.parts.hold(mallory, refOf(more), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.put(t.Context(), mallory, &wire.PutBlobRequest{Blob: refOf(more), Data: more})
	wantCode(t, err, wire.Busy)
	release()
}

func partsOf(t *testing.T, f *files, d wire.DeviceID) (n int) {
	t.Helper()
	err := f.parts.each(f.parts.folder(d), func(*upload, fs.FileInfo) error { n++; return nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}

// sweepLater sweeps at a time at which the present uploads are old.
func sweepLater(t *testing.T, f *files) error {
	f.parts.now = func() time.Time { return time.Now().Add(partLife + time.Minute) }
	defer func() { f.parts.now = time.Now }()
	return f.sweep(t.Context())
}

func TestFilesExpire(t *testing.T) {
	now := time.Now()
	account := quota.New(quota.Limits{}, nil)
	f, err := openFiles(t.TempDir(), 1000, 0, 0, testBindings(t), func() time.Time { return now }, account)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	content := []byte("old")
	for _, q := range []*wire.PutBlobRequest{{Blob: refOf(content), Data: content}, {Blob: wire.BlobRef{Size: 10}, Data: []byte("one")}} {
		if _, err := f.put(t.Context(), mallory, q); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := partsOf(t, f, mallory); n != 1 {
		t.Fatalf("%d uploads under way, wanted 1", n)
	}
	now = now.Add(partLife + time.Minute)
	if err := f.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.parts.folder(mallory)); err == nil {
		t.Fatal("an upload that does not go on stays")
	}
	if has, err := f.kept.Has(t.Context(), refOf(content)); has || err != nil {
		t.Fatal("an old file stays")
	}
	if n := account.Total(quota.Device(mallory)); n != 0 {
		t.Fatalf("%d bytes are still charged", n)
	}
	if err := f.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, err := f.bound.Allows(t.Context(), refOf(content), "another one"); err != nil || !ok {
		t.Fatalf("the binding of a file that is gone stays (%v)", err)
	}
}

// unfinished uploads a mebibyte except for its last byte.
func unfinished(f *files, d wire.DeviceID, i int) error {
	ref := wire.BlobRef{Hash: sha256.Sum256(binary.BigEndian.AppendUint64([]byte(d), uint64(i))), Size: 1 << 20}
	_, err := f.put(context.Background(), d, &wire.PutBlobRequest{Conversation: "no such conversation", Blob: ref, Data: make([]byte, 1<<20-1)})
	return err
}

// TestUnfinishedUploadsAreCharged checks that uploads which never end are bounded for a user, over all its devices
// and over a restart, and are released when they expire. Another user is not affected.
func TestUnfinishedUploadsAreCharged(t *testing.T) {
	dir := t.TempDir()
	limits := quota.Limits{Parts: 4 * (1<<20 - 1 + blob.Overhead)}
	account := quota.New(limits, nil)
	f := openFilesIn(t, dir, 1<<20, 0, account)
	for i := range 4 { // as many as fit, to the byte
		d := []wire.DeviceID{mallory, malloryTablet}[i%2]
		if err := unfinished(f, d, i); err != nil {
			t.Fatalf("upload %d: %v", i, err)
		}
	}
	for i, d := range []wire.DeviceID{mallory, malloryTablet} {
		wantCode(t, unfinished(f, d, 10+i), wire.Quota)
	}
	if n := account.Refused(quota.OverParts); n != 2 {
		t.Fatalf("%d refusals are counted, wanted 2", n)
	}
	if err := unfinished(f, bystander, 1); err != nil {
		t.Fatalf("another user: %v", err)
	}
	before := account.Total("mimi://a.example/u/mallory")
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	account = quota.New(limits, nil)
	f = openFilesIn(t, dir, 1<<20, 0, account)
	if after := account.Total("mimi://a.example/u/mallory"); after != before || after == 0 {
		t.Fatalf("%d bytes are charged after a restart, %d before", after, before)
	}
	wantCode(t, unfinished(f, mallory, 20), wire.Quota)
	if err := sweepLater(t, f); err != nil {
		t.Fatal(err)
	}
	if n := account.Total("mimi://a.example/u/mallory"); n != 0 {
		t.Fatalf("%d bytes are charged when all uploads have expired", n)
	}
	if err := unfinished(f, mallory, 21); err != nil {
		t.Fatalf("when there is room again: %v", err)
	}
}

// TestFilesAreCharged checks that files count for the device that uploaded them and for its user, until they are
// deleted, and after a restart.
func TestFilesAreCharged(t *testing.T) {
	const size = 100_000
	dir := t.TempDir()
	limits := quota.Limits{Device: 2 * (size + blob.Overhead), User: 3 * (size + blob.Overhead)}
	account := quota.New(limits, nil)
	f := openFilesIn(t, dir, 1<<20, 0, account)
	put := func(d wire.DeviceID, n byte) error {
		content := bytes.Repeat([]byte{n}, size)
		_, err := f.put(t.Context(), d, &wire.PutBlobRequest{Blob: refOf(content), Data: content})
		return err
	}
	for i, step := range []struct {
		d    wire.DeviceID
		want wire.Code
	}{{mallory, ""}, {mallory, ""}, {mallory, wire.Quota}, {malloryTablet, ""}, {malloryTablet, wire.Quota}, {bystander, ""}} {
		if err := put(step.d, byte(i)); wire.CodeOf(err) != step.want {
			t.Fatalf("file %d of %s: %v, wanted %q", i, step.d, err, step.want)
		}
	}
	if d, u := account.Refused(quota.OverDevice), account.Refused(quota.OverUser); d != 1 || u != 1 {
		t.Fatalf("%d and %d refusals are counted, wanted 1 and 1", d, u)
	}
	if err := put(malloryTablet, 0); err != nil {
		t.Fatalf("a file that is stored already: %v", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	account = quota.New(limits, nil)
	f = openFilesIn(t, dir, 1<<20, 0, account)
	if n := account.Of(quota.Device(mallory), quota.Files); n != 2*(size+blob.Overhead) {
		t.Fatalf("%d bytes are charged after a restart", n)
	}
	wantCode(t, put(mallory, 100), wire.Quota)
	first := refOf(bytes.Repeat([]byte{0}, size))
	if err := f.kept.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := sweepLater(t, f); err != nil { // the refused upload is still under way
		t.Fatal(err)
	}
	if err := put(mallory, 101); err != nil {
		t.Fatalf("when a file was deleted: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "store", "blobs", "*.owner")); err != nil || len(left) != 4 {
		t.Fatalf("%d owners are written down for 4 files (%v)", len(left), err)
	}
}

// fixedDisk is a disk with a fixed amount of free space.
type fixedDisk struct{ free, reserved uint64 }

func (d *fixedDisk) Free() (uint64, uint64, error) { return d.free, d.reserved, nil }

// TestReserve checks that nothing of a device or another organization is written into the reserve, and that writes
// succeed again when there is room.
func TestReserve(t *testing.T) {
	disk := &fixedDisk{free: 5 << 20, reserved: 4 << 20}
	account := quota.New(quota.Limits{}, disk)
	f := openFilesIn(t, t.TempDir(), 1<<20, 0, account)
	if err := unfinished(f, mallory, 1); err != nil { // up to the limit
		t.Fatal(err)
	}
	disk.free -= 1 << 20
	wantCode(t, unfinished(f, mallory, 2), wire.Unavailable)
	wantCode(t, orderAccount{account}.Charge("b.example", 0, 1), wire.Unavailable)
	if err := (orderAccount{account}).Charge("", 0, 1); err != nil {
		t.Fatalf("the node's own: %v", err)
	}
	disk.free--
	wantCode(t, orderAccount{account}.Room(), wire.Unavailable)
	if account.Refused(quota.OverDisk) != 3 {
		t.Fatalf("%d refusals are counted, wanted 3", account.Refused(quota.OverDisk))
	}
	disk.free = 1 << 30
	if err := unfinished(f, mallory, 2); err != nil {
		t.Fatalf("when there is room again: %v", err)
	}
}

package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlsfed/mlsfed/consensus"
	"github.com/mlsfed/mlsfed/consensus/blob"
	"github.com/mlsfed/mlsfed/quota"
	"github.com/mlsfed/mlsfed/wire"
)

// files are blobs that devices upload: the encrypted files that members share, and what is too large for
// an entry until the entry names it. They come in pieces; a piece that was written stays, so that an
// upload goes on where it stopped.
type files struct {
	store *blob.Store
	parts *parts // uploads under way
	max   uint64 // bytes of one
	age   time.Duration
	bound *bindings

	finishing sync.RWMutex // held for reading between binding a file and storing it
}

func openFiles(dir string, limit, total uint64, age time.Duration, bound *bindings, now func() time.Time, account *quota.Account) (*files, error) {
	f := &files{max: min(limit, wire.MaxBlob), age: age, bound: bound}
	var err error
	if f.parts, err = openParts(filepath.Join(dir, "parts"), now, account); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	f.store, err = blob.Open(filepath.Join(dir, "store"), blob.Limits{MaxBlob: int64(f.max), Quota: int64(total), Now: now, Ledger: ledger{account, quota.Files}})
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	return f, nil
}

func (f *files) close() error { return f.store.Close() }

// put takes one piece of a device's upload and says how much is there.
func (f *files) put(ctx context.Context, d wire.DeviceID, q *wire.PutBlobRequest) (*wire.PutBlobAnswer, error) {
	switch {
	case q.Blob.Size == 0 || q.Blob.Size > f.max:
		return nil, wire.Errorf(wire.TooLarge, "putBlob", "blob of %d bytes, wanted 1 to %d", q.Blob.Size, f.max)
	case q.Offset > q.Blob.Size || uint64(len(q.Data)) > q.Blob.Size-q.Offset:
		return nil, wire.Errorf(wire.Malformed, "putBlob", "%d bytes at %d of a blob of %d", len(q.Data), q.Offset, q.Blob.Size)
	}
	u, release, err := f.parts.hold(d, q.Blob, q.Conversation)
	if err != nil {
		return nil, err
	}
	defer release()
	if has, err := f.has(u); err != nil {
		return nil, err
	} else if has {
		return &wire.PutBlobAnswer{Stored: q.Blob.Size}, nil
	}
	have, err := u.write(q)
	if err != nil || have < q.Blob.Size {
		return &wire.PutBlobAnswer{Stored: have}, err
	}
	return &wire.PutBlobAnswer{Stored: have}, f.finish(ctx, u)
}

// has reports whether a file is stored that the conversation may have.
func (f *files) has(u *upload) (bool, error) {
	has, err := (blob.Wire{Store: f.store}).Has(u.ref)
	if err != nil || !has {
		return false, err
	}
	return f.bound.allows(u.ref, u.conversation)
}

// finish checks a whole upload, binds it to its conversation and makes it durable. One that is not what it is
// called is thrown away.
func (f *files) finish(ctx context.Context, u *upload) error {
	in, err := os.Open(u.path)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	u.discharge() // the file takes its place in the account
	err = f.keep(ctx, u, in)
	in.Close()
	switch {
	case err == nil, errors.Is(err, blob.ErrMismatch):
		if err != nil {
			err = wire.Errorf(wire.Invalid, "putBlob", "what was sent does not have the hash %v: send it again from the start", u.ref.Hash)
		}
		return errors.Join(err, os.Remove(u.path))
	case errors.Is(err, blob.ErrQuota):
		err = wire.Errorf(wire.Quota, "putBlob", "the node has no room for %d bytes more of files: try again when old files have expired, or ask the node's operator", u.ref.Size)
	case errors.Is(err, blob.ErrNoSpace):
		err = diskFull("putBlob")
	case wire.CodeOf(err) == wire.Internal:
		err = fmt.Errorf("upload: %w", err)
	}
	u.adopt() // the part stays, so that the upload can go on
	return err
}

// diskFull is what is refused with when a write found no room.
func diskFull(op string) error {
	return wire.Errorf(wire.Unavailable, op, "the node's disk is full: try again later; its operator has to make room")
}

// keep binds and stores a whole upload. The store does not read again what it has already, so the content is
// hashed here first: only who has it binds it.
func (f *files) keep(ctx context.Context, u *upload, part io.ReadSeeker) error {
	h := sha256.New()
	if _, err := io.Copy(h, part); err != nil {
		return err
	}
	if wire.Hash(h.Sum(nil)) != u.ref.Hash {
		return blob.ErrMismatch
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f.finishing.RLock()
	defer f.finishing.RUnlock()
	if err := f.bound.add(u.ref, u.conversation); err != nil {
		return err
	}
	return f.store.PutOwned(ctx, string(u.device), blob.Ref{Hash: u.ref.Hash, Size: u.ref.Size}, part)
}

// maxPiece is the size of a piece of a blob in an answer, in bytes.
const maxPiece = 512 << 10

// get reads a piece, at an offset, of a file of a conversation. A file of another one is as if it were not there.
func (f *files) get(id wire.ConversationID, ref wire.BlobRef, offset uint64) (*wire.DownloadAnswer, error) {
	if ok, err := f.bound.allows(ref, id); err != nil {
		return nil, err
	} else if !ok {
		return nil, wire.Errorf(wire.BlobMissing, "download", "%v is no file of conversation %v", ref, id)
	}
	return piece(f.store, ref, offset)
}

func piece(store *blob.Store, ref wire.BlobRef, offset uint64) (*wire.DownloadAnswer, error) {
	data, err := store.ReadAt(blob.Ref{Hash: ref.Hash, Size: ref.Size}, offset, maxPiece)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return nil, wire.Errorf(wire.BlobMissing, "download", "%v is not stored here: it expired, or was never uploaded", ref)
	case errors.Is(err, blob.ErrBadRef):
		return nil, wire.Errorf(wire.Malformed, "download", "offset %d of a blob of %d bytes", offset, ref.Size)
	case err != nil:
		return nil, fmt.Errorf("download: %w", err)
	}
	return &wire.DownloadAnswer{Data: data}, nil
}

// lend gives the conversation's replica what a device's submission names and a device has uploaded here for
// that conversation. The device that submits is charged.
func (f *files) lend(orders *consensus.Manager, d wire.DeviceID, e *wire.Envelope) error {
	for _, ref := range e.Blobs() {
		if ok, err := f.bound.allows(ref, e.Conversation); err != nil {
			return err
		} else if !ok {
			return wire.Errorf(wire.BlobMissing, "submit", "%v was uploaded for another conversation: upload it for %v", ref, e.Conversation)
		}
		in, err := blob.Wire{Store: f.store}.Get(ref)
		if errors.Is(err, blob.ErrNotFound) {
			continue // an earlier try, or another node, may have it
		}
		if err == nil {
			err = errors.Join(orders.PutBlob(string(d), ref, in), in.Close())
		}
		if err != nil {
			return fmt.Errorf("blob of a submission: %w", err)
		}
	}
	return nil
}

// sweep removes what is old.
func (f *files) sweep() error {
	_, _, err := f.store.Sweep(func(blob.Ref) bool { return false }, f.age)
	f.finishing.Lock()
	unbound := f.bound.sweep(func(ref wire.BlobRef) bool { return f.store.Has(blob.Ref{Hash: ref.Hash, Size: ref.Size}) })
	f.finishing.Unlock()
	return errors.Join(err, unbound, f.parts.sweep())
}

// putBlob takes a piece of a file, or of what an entry will name, from a device that has a part in the
// conversation.
func (r *router) putBlob(ctx context.Context, d wire.DeviceID, q *wire.PutBlobRequest) (any, error) {
	if _, err := r.lastEntry(ctx, "putBlob", d, q.Conversation); err != nil {
		return nil, err
	}
	return r.files.put(ctx, d, q)
}

// download reads a piece of what an entry names, of an own upload, or of one in another organization. What
// an entry names is also for a device that was removed since: it may have to follow up to its removal.
func (r *router) download(ctx context.Context, d wire.DeviceID, q *wire.DownloadRequest) (any, error) {
	last, err := r.lastEntry(ctx, "download", d, q.Conversation)
	if err != nil {
		return nil, err
	}
	if last > 0 && q.Organization != "" {
		return nil, wire.Errorf(wire.UnknownConversation, "download", "%s was removed from conversation %v with entry %d", d, q.Conversation, last)
	}
	switch q.Organization {
	case "":
		in, err := r.orders.Blob(ctx, q.Conversation, q.Blob) // brings it here from another replica
		if err != nil {
			return nil, err
		}
		if err := in.Close(); err != nil {
			return nil, fmt.Errorf("download: %w", err)
		}
		return piece(r.blobs, q.Blob, q.Offset)
	case r.org:
		return r.files.get(q.Conversation, q.Blob, q.Offset)
	}
	answer := new(wire.DownloadAnswer)
	return answer, r.peers.CallOrganization(ctx, q.Organization, wire.CallDownload, q, answer)
}

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
	"github.com/mlsfed/mlsfed/internal/quota"
	"github.com/mlsfed/mlsfed/store"
	"github.com/mlsfed/mlsfed/store/localfiles"
	"github.com/mlsfed/mlsfed/wire"
)

// files are blobs that devices upload: the encrypted files that members share, and what is too large for an entry
// until the entry names it. They arrive in pieces. A written piece stays, so that an upload continues where it
// stopped.
type files struct {
	kept  store.Files
	parts *parts // uploads under way
	max   uint64 // bytes of one
	age   time.Duration
	now   func() time.Time // the clock by which files age
	bound store.Bindings

	finishing sync.RWMutex // held for reading between binding a file and storing it
}

func openFiles(dir string, limit, total uint64, age time.Duration, bound store.Bindings, now func() time.Time, account *quota.Account) (*files, error) {
	f := &files{max: min(limit, wire.MaxBlob), age: age, now: now, bound: bound}
	var err error
	if f.parts, err = openParts(filepath.Join(dir, "parts"), now, account); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	f.kept, err = localfiles.Open(filepath.Join(dir, "store"), localfiles.Config{MaxFile: f.max, Total: total, Now: now, Ledger: ledger{account, quota.Files}})
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	return f, nil
}

// used returns the bytes of the files, 0 if that is not known.
func (f *files) used() uint64 {
	n, err := f.kept.Used(context.Background()) // a measure is no request
	if err != nil {
		return 0
	}
	return n
}

func (f *files) close() error { return f.kept.Close() }

// put stores one piece of a device's upload and returns how much is stored.
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
	if has, err := f.has(ctx, u); err != nil {
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

// has reports whether the file is stored and the conversation may have it.
func (f *files) has(ctx context.Context, u *upload) (bool, error) {
	has, err := f.kept.Has(ctx, u.ref)
	if err != nil || !has {
		return false, err
	}
	return f.bound.Allows(ctx, u.ref, u.conversation)
}

// finish checks a whole upload, binds it to its conversation and makes it durable. It deletes an upload whose content
// does not match its name.
func (f *files) finish(ctx context.Context, u *upload) error {
	in, err := os.Open(u.path)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	u.discharge() // from here on the account charges the file instead
	err = f.keep(ctx, u, in)
	in.Close()
	switch {
	case err == nil, errors.Is(err, store.ErrFileMismatch):
		if err != nil {
			err = wire.Errorf(wire.Invalid, "putBlob", "what was sent does not have the hash %v: send it again from the start", u.ref.Hash)
		}
		return errors.Join(err, os.Remove(u.path))
	case errors.Is(err, store.ErrFileQuota):
		err = wire.Errorf(wire.Quota, "putBlob", "the node has no room for %d bytes more of files: try again when old files have expired, or ask the node's operator", u.ref.Size)
	case errors.Is(err, store.ErrFileSpace):
		err = diskFull("putBlob")
	case wire.CodeOf(err) == wire.Internal:
		err = fmt.Errorf("upload: %w", err)
	}
	u.adopt() // the part stays, so that the upload can continue
	return err
}

// diskFull returns the refusal for a write that found no room.
func diskFull(op string) error {
	return wire.Errorf(wire.Unavailable, op, "the node's disk is full: try again later; its operator has to make room")
}

// keep binds and stores a whole upload. The store does not read content again that it already has. The content is
// hashed here first, so that only a device that has the content can bind the file.
func (f *files) keep(ctx context.Context, u *upload, part io.ReadSeeker) error {
	h := sha256.New()
	if _, err := io.Copy(h, part); err != nil {
		return err
	}
	if wire.Hash(h.Sum(nil)) != u.ref.Hash {
		return store.ErrFileMismatch
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f.finishing.RLock()
	defer f.finishing.RUnlock()
	if err := f.bound.Add(ctx, u.ref, u.conversation); err != nil {
		return err
	}
	return f.kept.Put(ctx, u.device, u.ref, part)
}

// maxPiece is the size of a piece of a blob in an answer, in bytes.
const maxPiece = 512 << 10

// get reads a piece, at an offset, of a file of a conversation. A file of another conversation is not found.
func (f *files) get(ctx context.Context, id wire.ConversationID, ref wire.BlobRef, offset uint64) (*wire.DownloadAnswer, error) {
	if ok, err := f.bound.Allows(ctx, ref, id); err != nil {
		return nil, err
	} else if !ok {
		return nil, wire.Errorf(wire.BlobMissing, "download", "%v is no file of conversation %v", ref, id)
	}
	data, err := f.kept.Get(ctx, ref, offset, maxPiece)
	return piece(ref, offset, data, err)
}

// piece answers with a piece of a file or a blob, or with the reason why there is none.
func piece(ref wire.BlobRef, offset uint64, data []byte, err error) (*wire.DownloadAnswer, error) {
	switch {
	case errors.Is(err, store.ErrFileMissing), errors.Is(err, blob.ErrNotFound):
		return nil, wire.Errorf(wire.BlobMissing, "download", "%v is not stored here: it expired, or was never uploaded", ref)
	case errors.Is(err, store.ErrFileRange), errors.Is(err, blob.ErrBadRef):
		return nil, wire.Errorf(wire.Malformed, "download", "offset %d of a blob of %d bytes", offset, ref.Size)
	case err != nil:
		return nil, fmt.Errorf("download: %w", err)
	}
	return &wire.DownloadAnswer{Data: data}, nil
}

// lend gives the conversation's replica the blobs that a device's submission names and that a device has uploaded
// here for that conversation. The submitting device is charged.
func (f *files) lend(ctx context.Context, orders *consensus.Manager, d wire.DeviceID, e *wire.Envelope) error {
	for _, ref := range e.Blobs() {
		if ok, err := f.bound.Allows(ctx, ref, e.Conversation); err != nil {
			return err
		} else if !ok {
			return wire.Errorf(wire.BlobMissing, "submit", "%v was uploaded for another conversation: upload it for %v", ref, e.Conversation)
		}
		in, err := f.kept.Open(ctx, ref)
		if errors.Is(err, store.ErrFileMissing) {
			continue // an earlier try, or another node, may have the blob
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

// sweep removes old uploads and files.
func (f *files) sweep(ctx context.Context) error {
	err := f.kept.Sweep(ctx, wire.TimeOf(f.now().Add(-f.age)))
	f.finishing.Lock()
	unbound := f.bound.Sweep(ctx, func(ref wire.BlobRef) bool {
		has, err := f.kept.Has(ctx, ref)
		return has || err != nil // a binding of which nothing is known stays
	})
	f.finishing.Unlock()
	return errors.Join(err, unbound, f.parts.sweep())
}

// putBlob accepts a piece of a file, or of a blob that an entry will name, from a device that takes part in the
// conversation.
func (r *router) putBlob(ctx context.Context, d wire.DeviceID, q *wire.PutBlobRequest) (any, error) {
	if _, err := r.lastEntry(ctx, "putBlob", d, q.Conversation); err != nil {
		return nil, err
	}
	return r.files.put(ctx, d, q)
}

// download reads a piece of a blob that an entry names, of an upload here, or of an upload in another organization. A
// device that was removed since may read what an entry names: it may have to follow up to its removal.
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
		in, err := r.orders.Blob(ctx, q.Conversation, q.Blob) // fetches the blob from another replica
		if err != nil {
			return nil, err
		}
		if err := in.Close(); err != nil {
			return nil, fmt.Errorf("download: %w", err)
		}
		data, err := r.blobs.ReadAt(blob.Ref{Hash: q.Blob.Hash, Size: q.Blob.Size}, q.Offset, maxPiece)
		return piece(q.Blob, q.Offset, data, err)
	case r.org:
		return r.files.get(ctx, q.Conversation, q.Blob, q.Offset)
	}
	if err := r.limits.call("download", d.User()); err != nil {
		return nil, err
	}
	answer := new(wire.DownloadAnswer)
	return answer, r.peers.CallOrganization(ctx, q.Organization, wire.CallDownload, q, answer)
}

package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/mlsfed/mlsfed/wire"
)

// uploadRecord lets an upload go on after a restart: the same file goes up under the same key.
type uploadRecord struct {
	Version uint8 `cbor:"1,keyasint"`
	File    File  `cbor:"2,keyasint"`
}

// pieceSize is how much of a blob one request carries, in bytes: a whole number of chunks, and well under
// the smallest frame that a node allows.
const pieceSize = 3 * (chunkSize + tagSize)

// SendFile encrypts a file, hands it to the organization in pieces, and sends a message that tells the
// members where it is and how to open it. A broken upload goes on where it stopped, also in a later call
// with the same file. Size is at most MaxFileSize bytes. The file must not change meanwhile.
func (d *Device) SendFile(ctx context.Context, id wire.ConversationID, name string, file io.ReaderAt, size int64, caption string) (MessageID, error) {
	if size < 0 || size > MaxFileSize {
		return MessageID{}, wire.Errorf(wire.TooLarge, "file", "%d bytes, at most %d", size, int64(MaxFileSize))
	}
	id, _, err := d.mayAct(ctx, id)
	if err != nil {
		return MessageID{}, err
	}
	key, f, err := d.prepareFile(ctx, id, name, file, uint64(size))
	if err != nil {
		return MessageID{}, err
	}
	s, err := newSealer(f.Key, f.Size)
	if err != nil {
		return MessageID{}, err
	}
	var last uint64
	var chunk []byte
	err = d.putBlob(ctx, id, f.Blob, func(p []byte, offset uint64) error {
		for len(p) > 0 {
			n := offset / (chunkSize + tagSize)
			if chunk == nil || n != last {
				if chunk, err = s.seal(file, n); err != nil {
					return err
				}
				last = n
			}
			took := copy(p, chunk[offset%(chunkSize+tagSize):])
			p, offset = p[took:], offset+uint64(took)
		}
		return nil
	})
	if err != nil {
		return MessageID{}, err
	}
	m, err := d.Send(ctx, id, Content{Type: ContentFile, Text: caption, File: f})
	if err != nil {
		return m, err
	}
	return m, d.turn(ctx, func(u *unit) error { u.delete(key); return nil })
}

// prepareFile finds the key of an upload that was begun, or makes one, and knows the blob afterwards.
func (d *Device) prepareFile(ctx context.Context, id wire.ConversationID, name string, file io.ReaderAt, size uint64) ([]byte, *File, error) {
	h := sha256.New()
	h.Write(idPart(id))
	h.Write([]byte(name + "\x00"))
	if _, err := io.Copy(h, io.NewSectionReader(file, 0, int64(size))); err != nil {
		return nil, nil, err
	}
	key := recordKey(recordUpload, h.Sum(nil))
	r := new(uploadRecord)
	known := false
	var org wire.Domain
	err := d.turn(ctx, func(u *unit) error {
		var err error
		org = d.self.Device.Organization()
		known, err = u.getRecord(key, r)
		return err
	})
	if err != nil || known {
		return key, &r.File, err
	}
	r = &uploadRecord{Version: recordVersion, File: File{Name: name, Size: size, Key: make([]byte, fileKeySize), Organization: org}}
	if err := d.random(r.File.Key); err != nil {
		return nil, nil, err
	}
	if r.File.Blob, err = sealedRef(r.File.Key, file, size); err != nil {
		return nil, nil, err
	}
	if err := r.File.Check(); err != nil {
		return nil, nil, err
	}
	return key, &r.File, d.turn(ctx, func(u *unit) error { return u.putRecord(key, r) })
}

// sealedRef names the blob that a file becomes.
func sealedRef(key []byte, file io.ReaderAt, size uint64) (wire.BlobRef, error) {
	ref := wire.BlobRef{Size: sealedSize(size)}
	s, err := newSealer(key, size)
	if err != nil {
		return ref, err
	}
	h := sha256.New()
	for n := range chunks(size) {
		sealed, err := s.seal(file, n)
		if err != nil {
			return ref, err
		}
		h.Write(sealed)
	}
	ref.Hash = wire.Hash(h.Sum(nil))
	return ref, nil
}

// putBlob hands a blob in, from where the node has it. read fills p with what stands at an offset.
func (d *Device) putBlob(ctx context.Context, id wire.ConversationID, ref wire.BlobRef, read func(p []byte, offset uint64) error) error {
	r := &wire.PutBlobRequest{Conversation: id, Blob: ref}
	stalled := 0
	for {
		var a wire.PutBlobAnswer
		if err := d.call(ctx, wire.MethodPutBlob, r, &a); err != nil {
			return err
		}
		if a.Stored >= ref.Size {
			return nil
		}
		if stalled++; a.Stored > r.Offset {
			stalled = 0
		}
		if stalled > 8 {
			return wire.Errorf(wire.Unavailable, "file", "the node takes no more than %d bytes of a blob of %d", a.Stored, ref.Size)
		}
		r.Offset = a.Stored
		r.Data = make([]byte, min(pieceSize, ref.Size-a.Stored))
		if err := read(r.Data, a.Stored); err != nil {
			return err
		}
	}
}

// SaveFile fetches a file and writes what stands in it from an offset on: 0 for all, or how much an earlier attempt has
// written. Each chunk is verified before it is written, and the last one only when the whole has the hash that the
// message names: who has the key could otherwise give each recipient another content. If w is an io.ReaderAt, what the
// earlier attempt has written is read from it and belongs to the whole; otherwise it is fetched again, and the caller
// answers for what it kept. wire.Forged: nothing that was written is to be used.
func (d *Device) SaveFile(ctx context.Context, id wire.ConversationID, f *File, w io.Writer, from uint64) error {
	if err := f.Check(); err != nil {
		return err
	}
	if from > f.Size {
		return wire.Errorf(wire.Malformed, "file", "offset %d in a file of %d bytes", from, f.Size)
	}
	s, err := newSealer(f.Key, f.Size)
	if err != nil {
		return err
	}
	whole := sha256.New()
	n := uint64(0)
	kept, ok := w.(io.ReaderAt)
	if ok {
		if n, err = resealed(s, kept, min(from/chunkSize, chunks(f.Size)-1), whole); err != nil {
			return err
		}
	}
	r, err := d.openBlob(ctx, id, wire.DownloadRequest{Organization: f.Organization, Blob: f.Blob, Offset: n * (chunkSize + tagSize)})
	if err != nil {
		return err
	}
	for ; n < chunks(f.Size); n++ {
		sealed := make([]byte, s.length(n)+tagSize)
		if _, err := io.ReadFull(r, sealed); err != nil {
			return err
		}
		whole.Write(sealed)
		if n == chunks(f.Size)-1 && wire.Hash(whole.Sum(nil)) != f.Blob.Hash {
			return wire.Errorf(wire.Forged, "file", "%q is not the file that the message names: its sender, or %s, has given out another one", f.Name, f.Organization)
		}
		plain, err := s.open(n, sealed)
		if err != nil {
			return err
		}
		begin := n * chunkSize
		if have := min(max(from, begin)-begin, uint64(len(plain))); ok && have > 0 {
			before := make([]byte, have)
			if _, err := kept.ReadAt(before, int64(begin)); err != nil {
				return fmt.Errorf("file: read what was saved before: %w", err)
			}
			if !bytes.Equal(before, plain[:have]) {
				return wire.Errorf(wire.Forged, "file", "what was saved of %q before does not belong to it: begin again", f.Name)
			}
		}
		if begin+uint64(len(plain)) <= from && len(plain) > 0 {
			continue // written by the earlier attempt
		}
		if _, err := w.Write(plain[max(from, begin)-begin:]); err != nil {
			return err
		}
	}
	return nil
}

// resealed hashes what chunks of an earlier attempt were sealed as: their nonces are their places.
func resealed(s *sealer, kept io.ReaderAt, n uint64, whole hash.Hash) (uint64, error) {
	for i := range n {
		sealed, err := s.seal(kept, i)
		if err != nil {
			return 0, fmt.Errorf("file: read what was saved before: %w", err)
		}
		whole.Write(sealed)
	}
	return n, nil
}

// openBlob begins to read a blob of a conversation, or of one that it has succeeded.
func (d *Device) openBlob(ctx context.Context, id wire.ConversationID, q wire.DownloadRequest) (*pieces, error) {
	ids, err := d.lineage(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, q.Conversation = range ids {
		r := &pieces{d: d, ctx: ctx, request: q}
		if err = r.fill(); err == nil || err == io.EOF {
			return r, nil
		}
		if code := wire.CodeOf(err); code != wire.BlobMissing && code != wire.NotFound {
			return nil, err
		}
	}
	return nil, err
}

// pieces reads a blob, request by request.
type pieces struct {
	d       *Device
	ctx     context.Context // of the one call that reads
	request wire.DownloadRequest
	rest    []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if err := p.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// fill fetches the next piece; io.EOF after the last one.
func (p *pieces) fill() error {
	if p.request.Offset >= p.request.Blob.Size {
		return io.EOF
	}
	var a wire.DownloadAnswer
	if err := p.d.call(p.ctx, wire.MethodDownload, &p.request, &a); err != nil {
		return err
	}
	if len(a.Data) == 0 || uint64(len(a.Data)) > p.request.Blob.Size-p.request.Offset {
		return wire.Errorf(wire.Malformed, "download", "%d bytes at offset %d of a blob of %d", len(a.Data), p.request.Offset, p.request.Blob.Size)
	}
	p.rest = a.Data
	p.request.Offset += uint64(len(a.Data))
	return nil
}

// download fetches a whole blob and checks its hash.
func (d *Device) download(ctx context.Context, id wire.ConversationID, org wire.Domain, ref wire.BlobRef) ([]byte, error) {
	if ref.Size > wire.MaxBlob {
		return nil, wire.Errorf(wire.TooLarge, "download", "blob of %d bytes, at most %d", ref.Size, wire.MaxBlob)
	}
	var h hash.Hash = sha256.New()
	r := &pieces{d: d, ctx: ctx, request: wire.DownloadRequest{Conversation: id, Organization: org, Blob: ref}}
	content, err := io.ReadAll(io.TeeReader(r, h))
	if err != nil {
		return nil, err
	}
	if wire.Hash(h.Sum(nil)) != ref.Hash {
		return nil, wire.Errorf(wire.Forged, "download", "blob %v has another content", ref)
	}
	return content, nil
}

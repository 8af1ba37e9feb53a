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

// uploadRecord lets an upload continue after a restart: the same file is uploaded under the same key.
type uploadRecord struct {
	Version uint8 `cbor:"1,keyasint"`
	File    File  `cbor:"2,keyasint"`
}

// pieceSize is the number of bytes of a blob that one request carries: a whole number of chunks, and well below the
// smallest frame size that a node allows.
const pieceSize = 3 * (chunkSize + tagSize)

// SendFile encrypts a file, uploads it to the organization in pieces, and sends a message that gives the members its
// location and key. An interrupted upload continues where it stopped, also in a later call with the same file. Size
// is at most MaxFileSize bytes. The file must not change meanwhile.
func (d *Device) SendFile(ctx context.Context, id ConversationID, name string, file io.ReaderAt, size int64, caption string) (MessageID, error) {
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

// prepareFile finds the key of an upload that was begun, or makes one, and computes the name of the blob.
func (d *Device) prepareFile(ctx context.Context, id ConversationID, name string, file io.ReaderAt, size uint64) ([]byte, *File, error) {
	h := sha256.New()
	h.Write(idPart(id))
	h.Write([]byte(name + "\x00"))
	if _, err := io.Copy(h, io.NewSectionReader(file, 0, int64(size))); err != nil {
		return nil, nil, err
	}
	key := recordKey(recordUpload, h.Sum(nil))
	r := new(uploadRecord)
	known := false
	var org Domain
	err := d.turn(ctx, func(u *unit) error {
		self, err := d.enrolled()
		if err != nil {
			return err
		}
		org = self.Device.Organization()
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

// sealedRef returns the reference of the blob that a file becomes.
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

// putBlob uploads a blob, continuing from the part that the node already has. read fills p with the bytes at an
// offset.
func (d *Device) putBlob(ctx context.Context, id ConversationID, ref wire.BlobRef, read func(p []byte, offset uint64) error) error {
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

// SaveFile fetches a file and writes its content from an offset on: 0 for the whole file, or the length that an
// earlier attempt has written. It verifies each chunk before it writes it. It writes the last chunk only when the
// whole blob has the hash that the message names: otherwise somebody with the key could give each recipient another
// content. If w is an io.ReaderAt, SaveFile reads the part that the earlier attempt has written from w, and includes
// it in the hash. Otherwise SaveFile fetches that part again, and the caller is responsible for the part that it
// kept. After wire.Forged nothing that was written may be used.
func (d *Device) SaveFile(ctx context.Context, id ConversationID, f *File, w io.Writer, from uint64) error {
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

// resealed hashes the sealed form of the chunks of an earlier attempt: the nonce of a chunk is its position.
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

// openBlob starts reading a blob of a conversation, or of one that the conversation has succeeded.
func (d *Device) openBlob(ctx context.Context, id ConversationID, q wire.DownloadRequest) (*pieces, error) {
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
	ctx     context.Context // the context of the one call that reads
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

// fill fetches the next piece; it returns io.EOF after the last one.
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
func (d *Device) download(ctx context.Context, id ConversationID, org Domain, ref wire.BlobRef) ([]byte, error) {
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

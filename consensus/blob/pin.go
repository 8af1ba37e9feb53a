package blob

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// MaxConversation is the length of the longest name of a conversation, in bytes.
const MaxConversation = 120

// Pin records that a conversation needs a blob, stored already or not yet, and returns when the record is durable.
// Pinning a blob twice has the same effect as once.
func (s *Store) Pin(conversation string, ref Ref) error {
	if err := checkName(conversation); err != nil {
		return err
	}
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if s.isPinned(conversation, ref) {
		return nil
	}
	dir := s.pinsOf(conversation)
	// The pin is set before it is durable, so that a concurrent Sweep already keeps the blob.
	s.setPin(conversation, ref)
	err := makeFolder(dir)
	if err == nil { // another Pin may have made the file and not synced it yet
		err = syncFolder(filepath.Dir(dir))
	}
	if err == nil {
		err = makeEmpty(filepath.Join(dir, ref.String()))
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		s.dropPin(conversation, ref)
		return failure("pin", err)
	}
	return nil
}

func makeEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Unpin removes a pin. The blob stays until Delete or Sweep. A crash may bring back a pin that was removed just
// before it.
func (s *Store) Unpin(conversation string, ref Ref) error {
	if err := checkName(conversation); err != nil {
		return err
	}
	name := s.name(ref)
	name.Lock()
	defer name.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if !s.isPinned(conversation, ref) {
		return nil
	}
	dir := s.pinsOf(conversation)
	if err := os.Remove(filepath.Join(dir, ref.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failure("unpin", err)
	}
	s.dropPin(conversation, ref)
	return nil
}

// UnpinAll removes all pins of a conversation.
func (s *Store) UnpinAll(conversation string) error {
	for _, ref := range s.Pins(conversation) {
		if err := s.Unpin(conversation, ref); err != nil {
			return err
		}
	}
	return nil
}

// Pins returns the blobs that a conversation has pinned, in no order.
func (s *Store) Pins(conversation string) []Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Ref
	for ref, by := range s.pins {
		if _, ok := by[conversation]; ok {
			out = append(out, ref)
		}
	}
	return out
}

// PinnedBy returns the names of the conversations that have pinned a blob, sorted.
func (s *Store) PinnedBy(ref Ref) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.pins[ref]))
}

// Conversations returns the names of the conversations with pins, sorted. After a crash the caller unpins the blobs
// of conversations that it does not have.
func (s *Store) Conversations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[string]struct{})
	for _, by := range s.pins {
		for c := range by {
			seen[c] = struct{}{}
		}
	}
	out := make([]string, 0, len(seen))
	for c := range seen {
		out = append(out, c)
	}
	slices.Sort(out)
	return out
}

// scanPins reads the pins. It ignores names that are not the store's, and removes folders of conversations without
// pins.
func (s *Store) scanPins() error {
	top := filepath.Join(s.dir, pinFolder)
	folders, err := os.ReadDir(top)
	if err != nil {
		return failure("list pins", err)
	}
	for _, d := range folders {
		conversation, err := hex.DecodeString(d.Name())
		if err != nil || !d.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(top, d.Name()))
		if err != nil {
			return failure("list pins", err)
		}
		if len(files) == 0 {
			if err := os.Remove(filepath.Join(top, d.Name())); err != nil {
				return failure("remove empty folder", err)
			}
		}
		for _, f := range files {
			if ref, err := ParseRef(f.Name()); err == nil {
				s.setPin(string(conversation), ref)
			}
		}
	}
	return nil
}

func (s *Store) isPinned(conversation string, ref Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pins[ref][conversation]
	return ok
}

func (s *Store) setPin(conversation string, ref Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[ref] == nil {
		s.pins[ref] = make(map[string]struct{})
	}
	s.pins[ref][conversation] = struct{}{}
}

func (s *Store) dropPin(conversation string, ref Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins[ref], conversation)
	if len(s.pins[ref]) == 0 {
		delete(s.pins, ref)
	}
}

func (s *Store) pinsOf(conversation string) string {
	return filepath.Join(s.dir, pinFolder, hex.EncodeToString([]byte(conversation)))
}

func checkName(conversation string) error {
	if len(conversation) == 0 || len(conversation) > MaxConversation {
		return fmt.Errorf("%w: %d bytes, 1 to %d are allowed", ErrBadName, len(conversation), MaxConversation)
	}
	return nil
}

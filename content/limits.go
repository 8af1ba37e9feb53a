package content

import (
	"errors"
	"fmt"
)

// Nesting that the draft allows (§6.3). Neither is configurable.
const (
	MaxPartDepth      = 4 // levels of parts; the body is level 1
	MaxExtensionDepth = 4 // levels of maps, arrays and tags; the map of all extension fields is level 1
)

// Defaults of Limits.
const (
	DefaultSize       = 224 << 10 // fits a message of the network, with its framing
	DefaultParts      = 1024      // §9.1
	DefaultTopic      = 4096      // §9.1
	DefaultExtensions = 64
)

// maxKeyName is the most octets of a text key of an extension field (§4.3).
const maxKeyName = 255

// Limits bounds a content. A field of zero means the default.
type Limits struct {
	Size       int // bytes of the encoded content
	Parts      int // parts of the body, counted at all levels with the body itself
	Topic      int // bytes of TopicID
	Extensions int // extension fields
}

func (l Limits) withDefaults() Limits {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&l.Size, DefaultSize)
	set(&l.Parts, DefaultParts)
	set(&l.Topic, DefaultTopic)
	set(&l.Extensions, DefaultExtensions)
	return l
}

// Errors that the errors of this package wrap.
var (
	// ErrMalformed reports a content that the draft does not allow.
	ErrMalformed = errors.New("malformed content")
	// ErrLimit reports a content that exceeds Limits or the nesting that the draft allows.
	ErrLimit = errors.New("content exceeds a limit")
)

// malformed returns an error for the encoded content at an offset.
func malformed(at int, format string, args ...any) error {
	return fmt.Errorf("%w: byte %d: %s", ErrMalformed, at, fmt.Sprintf(format, args...))
}

// exceeded returns an error for a limit.
func exceeded(what string, got, most uint64) error {
	return fmt.Errorf("%w: %s: %d, at most %d", ErrLimit, what, got, most)
}

package content

import (
	"fmt"
	"time"
)

// Content is a decoded message (§4).
type Content struct {
	Salt       Salt
	Replaces   MessageID   // the first version of the message that this one edits or deletes; zero for none (§5.5)
	TopicID    []byte      // the topic that this message belongs to; empty for none (§5.11)
	Expires    *Expiration // nil for a message without an end
	InReplyTo  MessageID   // the message that this one answers; zero for none
	Extensions []Extension // at most one for each key; a decoded content has them in the order of their encodings
	Body       Part        // §4.4
}

// maxExpiration is the longest plausible time to an end, and since one (§9.1).
const maxExpiration = 366 * 24 * time.Hour

// Expiration is the sender's hint when receivers delete a message (§4.1).
type Expiration struct {
	Relative bool
	// Seconds counts from the moment at which the receiver reads the message, if Relative, or from the start of the
	// UNIX epoch.
	Seconds uint32
}

// ExpireAt returns the expiration at a moment. Moments before 1970 and after 2106 become the nearest possible one.
func ExpireAt(t time.Time) Expiration {
	return Expiration{Seconds: uint32(min(max(t.Unix(), 0), 1<<32-1))}
}

// ExpireAfter returns the expiration a time after reading. Fractions of a second count as a whole one.
func ExpireAfter(d time.Duration) Expiration {
	seconds := (d + time.Second - 1) / time.Second
	return Expiration{Relative: true, Seconds: uint32(min(max(seconds, 0), 1<<32-1))}
}

// At returns the moment of the expiration for a message that was read at a moment.
func (e Expiration) At(read time.Time) time.Time {
	if e.Relative {
		return read.Add(time.Duration(e.Seconds) * time.Second)
	}
	return time.Unix(int64(e.Seconds), 0).UTC()
}

// Check refuses an expiration that is more than a year away from now (§9.1). Decode does not call Check, because a
// content that is decoded again later stays the same content.
func (e Expiration) Check(now time.Time) error {
	if d := e.At(now).Sub(now); d > maxExpiration || d < -maxExpiration {
		return fmt.Errorf("%w: the expiration is more than a year away", ErrMalformed)
	}
	return nil
}

// ID derives the id of the content (§3.3): sender is the URI of the sending user, room is the URI of the room.
func (c *Content) ID(sender, room string) (MessageID, error) {
	b, err := c.Encode(Limits{})
	if err != nil {
		return MessageID{}, err
	}
	return DeriveID(sender, room, b, c.Salt)
}

// CheckOrigin refuses a content that names another sender or room than the ones it came from. A content that names
// none is right.
func (c *Content) CheckOrigin(sender, room string) error {
	for _, field := range []struct {
		key        Key
		name, want string
	}{{KeySender, "sender", sender}, {KeyRoom, "room", room}} {
		if v, ok := c.Extension(field.key); ok {
			if got, _ := v.Text(); got != field.want {
				return fmt.Errorf("%w: the content names the %s %.120q, but came from %.120q", ErrMalformed, field.name, got, field.want)
			}
		}
	}
	return nil
}

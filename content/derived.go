package content

import (
	"bytes"
	"math"
	"time"
)

// Derived has the values that a receiver knows of a message from elsewhere: MessageDerivedValues (§4.6).
type Derived struct {
	ID           MessageID
	Accepted     uint64 // the time at which the message was accepted, in milliseconds after the start of the UNIX epoch
	AcceptedTag  Raw    // an extended time (tag 1001, RFC 9581) instead of Accepted, if not nil
	GroupID      []byte // of MLS
	SenderLeaf   uint32
	SenderClient string // a URI, as the two that follow
	SenderUser   string
	Room         string
}

const (
	derivedFields   = 7
	tagExtendedTime = 1001
)

// AcceptedTime returns Accepted, unless the time has another form.
func (d *Derived) AcceptedTime() (time.Time, bool) {
	if d.AcceptedTag != nil || d.Accepted > maxTime {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(d.Accepted)).UTC(), true
}

// DecodeDerived decodes derived values.
func DecodeDerived(b []byte, limits Limits) (*Derived, error) {
	l := limits.withDefaults()
	if len(b) > l.Size {
		return nil, exceeded("bytes", uint64(len(b)), uint64(l.Size))
	}
	r := &reader{b: bytes.Clone(b), limits: l}
	d, err := r.derived()
	if err != nil {
		return nil, err
	}
	if r.at != len(b) {
		return nil, malformed(r.at, "%d bytes follow the derived values", len(b)-r.at)
	}
	return d, nil
}

func (r *reader) derived() (*Derived, error) {
	n, err := r.array("the derived values")
	if err != nil {
		return nil, err
	}
	if n != derivedFields {
		return nil, malformed(0, "the derived values have %d fields, wanted %d", n, derivedFields)
	}
	d := new(Derived)
	if d.ID, err = r.presentID("messageId"); err != nil {
		return nil, err
	}
	if err := r.accepted(d); err != nil {
		return nil, err
	}
	if d.GroupID, err = r.bytes("mlsGroupId"); err != nil {
		return nil, err
	}
	leaf, err := r.uint(math.MaxUint32, "senderLeafIndex")
	if err != nil {
		return nil, err
	}
	d.SenderLeaf = uint32(leaf)
	if d.SenderClient, err = r.text("senderClientUrl"); err != nil {
		return nil, err
	}
	if d.SenderUser, err = r.text("senderUserUrl"); err != nil {
		return nil, err
	}
	d.Room, err = r.text("roomUrl")
	return d, err
}

// accepted reads the time: milliseconds, or a map with tag 1001.
func (r *reader) accepted(d *Derived) (err error) {
	start := r.at
	h, err := r.head()
	if err != nil {
		return err
	}
	if h.major == majorUint {
		d.Accepted = h.arg
		return nil
	}
	if h.major != majorTag || h.arg != tagExtendedTime || r.at >= len(r.b) || r.b[r.at]>>5 != majorMap {
		return malformed(start, "hubAcceptedTimestamp is neither a number nor an extended time")
	}
	r.at = start
	d.AcceptedTag, err = r.raw(MaxExtensionDepth)
	return err
}

// Encode encodes derived values in the one form that DecodeDerived accepts.
func (d *Derived) Encode(limits Limits) ([]byte, error) {
	b := appendBytes(appendHead(nil, majorArray, derivedFields), d.ID[:])
	if d.AcceptedTag != nil {
		if err := d.AcceptedTag.check(); err != nil {
			return nil, err
		}
		b = append(b, d.AcceptedTag...)
	} else {
		b = appendHead(b, majorUint, d.Accepted)
	}
	b = appendBytes(b, d.GroupID)
	b = appendHead(b, majorUint, uint64(d.SenderLeaf))
	b = appendText(b, d.SenderClient)
	b = appendText(b, d.SenderUser)
	b = appendText(b, d.Room)
	_, err := DecodeDerived(b, limits)
	if err != nil {
		return nil, err
	}
	return b, nil
}

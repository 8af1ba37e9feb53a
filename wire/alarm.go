package wire

// Alarm informs a device that its node found servers that disagree about a conversation, or lie about it. It is the
// body of a FrameAlarm.
type Alarm struct {
	Conversation ConversationID `cbor:"1,keyasint"`
	Reason       string         `cbor:"2,keyasint"` // of package consensus, such as "rewritten"; the characters of a feature
	Text         string         `cbor:"3,keyasint"` // for people, at most MaxAlarm bytes
	Time         Time           `cbor:"4,keyasint"` // when the node noticed it
}

// MaxAlarm bounds the text of an Alarm, in bytes.
const MaxAlarm = 512

// Check refuses an alarm that names nothing, or that exceeds its bounds.
func (a *Alarm) Check() error {
	if err := a.Conversation.Check(); err != nil {
		return Errorf(Malformed, "alarm", "%v", err)
	}
	if !Feature(a.Reason).wellFormed() || len(a.Text) > MaxAlarm {
		return Errorf(Malformed, "alarm", "reason %.40q with a text of %d bytes", a.Reason, len(a.Text))
	}
	return nil
}

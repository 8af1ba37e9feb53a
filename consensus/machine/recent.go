package machine

import "github.com/mlsfed/mlsfed/wire"

// kept is a recent entry with the time in it.
type kept struct {
	wire.Committed
	time       wire.Time
	blobs      []wire.BlobRef
	submission wire.SubmissionID // zero for a change of replicas
	at         location
}

// submitted records an accepted submission, so that a retry gets the first answer.
type submitted struct {
	_       struct{} `cbor:",toarray"`
	ID      wire.SubmissionID
	Digest  wire.Hash
	Receipt wire.Receipt
}

// remember appends an accepted entry and drops the entries that the policy no longer keeps. The newest entry always
// stays.
func (m *Machine) remember(k kept) {
	m.recent = append(m.recent, k)
	m.recentBytes += len(k.Entry)
	m.held += len(k.Entry)
	count, bytes, life := keepLimits(m.policy)
	drop := 0
	for drop < len(m.recent)-1 {
		old := &m.recent[drop]
		if len(m.recent)-drop <= count && m.recentBytes <= bytes && m.now-old.time <= life {
			break
		}
		m.recentBytes -= old.at.size
		m.held -= len(old.Entry)
		*old = kept{}
		drop++
	}
	m.recent = m.recent[drop:]
	m.gone = max(m.gone-drop, 0)
	m.trimMemory()
}

// keepLimits returns the policy's limits, with defaults for those that it does not set.
func keepLimits(p wire.Policy) (count, bytes int, life wire.Time) {
	count, bytes, life = DefaultRecentCount, DefaultRecentBytes, DefaultRecentLife
	if p.RecentCount > 0 {
		count = int(p.RecentCount)
	}
	if p.RecentBytes > 0 {
		bytes = int(p.RecentBytes)
	}
	if p.RecentHours > 0 {
		life = wire.Time(p.RecentHours) * 3600_000
	}
	return count, bytes, life
}

// oldest returns the first entry that is still kept, or the next one if there is none.
func (m *Machine) oldest() wire.SequenceNumber {
	if len(m.recent) == 0 {
		return m.seq + 1
	}
	return m.recent[0].Sequence
}

func (m *Machine) keptAt(seq wire.SequenceNumber) *kept {
	first := m.oldest()
	if seq < first || seq > m.seq {
		return nil
	}
	return &m.recent[seq-first]
}

// noteSubmission records an accepted submission and drops the oldest ones above MaxSubmissions.
func (m *Machine) noteSubmission(s submitted) {
	m.answers[s.ID] = s
	m.answered = append(m.answered, s.ID)
	if len(m.answered) > MaxSubmissions {
		delete(m.answers, m.answered[0])
		m.answered = m.answered[1:]
	}
}

// answerBefore returns the receipt of an earlier acceptance of the same envelope. Two envelopes with one id are an
// error.
func (m *Machine) answerBefore(e *wire.Envelope) (*wire.Receipt, *wire.Error) {
	first, ok := m.answers[e.Submission]
	if !ok {
		return nil, nil
	}
	digest, err := e.Digest()
	if err != nil {
		return nil, wire.AsError("submit", err)
	}
	if digest != first.Digest {
		return nil, wire.Errorf(wire.SubmissionReused, "submit", "id %v belongs to another submission, entry %d", e.Submission, first.Receipt.Sequence)
	}
	return &first.Receipt, nil
}

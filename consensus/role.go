package consensus

import (
	"github.com/hashicorp/raft"

	"github.com/mlsfed/mlsfed/wire"
)

// role is the role of a node in a conversation. A higher role includes the lower ones.
type role uint8

const (
	roleNone    role = iota // no part in it
	roleLearner             // holds a replica: may wake, submit and ask
	roleVoter               // has a vote: may lead, and so may send any message of a leader or a candidate
)

// String names the role in errors.
func (r role) String() string { return [...]string{"no part", "no vote", "a vote"}[r] }

// leastRoles gives, for each kind of frame, the least role of its sender. Every entry point consults it: the
// dispatcher for frames, and role-checked functions for heartbeats, snapshots and blobs, which use other forms. A
// kind without an entry is refused.
//
// roleNone means that the frame is validated by its subject, and changes nothing on the word of the sender.
var leastRoles = map[frameKind]role{
	kindAppend:       roleVoter,
	kindVote:         roleVoter,
	kindPreVote:      roleVoter,
	kindTimeoutNow:   roleVoter,
	kindReply:        roleNone,    // delivered to the call that awaits it
	kindBeats:        roleNone,    // each heartbeat is checked: roleOfBeat
	kindWake:         roleLearner, // metered
	kindSleep:        roleVoter,
	kindOrder:        roleLearner,
	kindInvite:       roleNone,    // receiveInvite
	kindFarewell:     roleNone,    // makes this node ask the voters that it knows
	kindSummary:      roleNone,    // a question needs roleOfQuestion; in a list, each conversation is checked
	kindGone:         roleNone,    // about the sender itself; about others needs roleOfQuestion
	kindRejoin:       roleLearner, // concerns the sender alone
	kindUnresponsive: roleLearner,
	kindTestify:      roleLearner,
	kindComplain:     roleLearner, // proven by its content
}

// Roles for messages that are not frames.
const (
	roleOfBeat     = roleVoter
	roleOfSnapshot = roleVoter
	roleOfBlob     = roleLearner
	roleOfQuestion = roleLearner
)

// members lists the nodes with a part in a conversation.
type members struct {
	voters, learners []wire.NodeID
}

func (s members) role(n wire.NodeID) role {
	switch {
	case contains(s.voters, n):
		return roleVoter
	case contains(s.learners, n):
		return roleLearner
	}
	return roleNone
}

// committed returns the newest configuration that this node knows to be committed. Raft's own GetConfiguration
// returns the latest one in the log, which any leader may have written a moment ago.
func (m *Manager) committed(c *conversation) (members, error) {
	if l := c.awake(); l != nil {
		return l.committed(), nil
	}
	rec, err := m.readRecord(c.id)
	if err != nil {
		return members{}, err
	}
	return rec.committed(), nil
}

func (l *live) committed() members {
	rec := l.rec.Load()
	l.fsm.mu.RLock()
	index, applied, config := l.fsm.configIndex, l.fsm.index, l.fsm.config
	l.fsm.mu.RUnlock()
	behind := rec.ConfigIndex > index || rec.ConfigIndex == 0 && applied < rec.Applied
	if index == 0 || behind {
		return rec.committed()
	}
	var s members
	s.voters, s.learners = splitServers(config.Servers)
	return s
}

// committed returns the configuration in a record. A replica that was invited and has received nothing yet knows the
// members only from the inviter: it follows the inviter, and the nodes that the members vouch for.
func (r *record) committed() members {
	if r.ConfigIndex > 0 || r.Applied > 0 || r.Inviter == "" {
		return members{r.Voters, r.Learners}
	}
	s := members{learners: append(without(r.Voters, r.Leader), r.Learners...)}
	if r.Leader != "" {
		s.voters = []wire.NodeID{r.Leader}
	}
	return s
}

// roleOf determines the role of a node in a conversation, in any state of the conversation.
func (m *Manager) roleOf(n wire.NodeID, c *conversation) (role, error) {
	known, err := m.committed(c)
	if err != nil {
		return roleNone, err
	}
	got := known.role(n)
	if got < roleVoter {
		got = max(got, c.vouchedRole(n))
	}
	if l := c.awake(); got == roleNone && l != nil && l.configured(n) {
		got = roleLearner // named in the latest configuration or by the log, and not in force yet
	}
	if got < roleVoter && m.holds(ruleConfigurations) && c.awake().isAcceptedVoter(n) {
		got = roleVoter
	}
	if got == roleVoter && c.isMuted(n) {
		got = roleLearner
	}
	if got > roleNone && !m.holds(ruleRoles) {
		got = roleVoter
	}
	return got, nil
}

// isAcceptedVoter reports whether a node votes according to the latest configuration in the log, committed or not. Raft
// elects by that configuration, and this replica validated it before accepting it. Without isAcceptedVoter, voters that
// stored a change whose leader is lost would refuse each other. See validate.go.
func (l *live) isAcceptedVoter(n wire.NodeID) bool {
	if l == nil {
		return false
	}
	r := l.r.Load()
	if r == nil {
		return false
	}
	voters, _ := splitServers(r.GetConfiguration().Configuration().Servers)
	return contains(voters, n)
}

// checkRole returns an error if a node's role in a conversation is lower than needed. In that case it also asks the
// known voters: the node may have a new role that this replica does not know yet.
func (m *Manager) checkRole(from wire.NodeID, c *conversation, need role) error {
	if need == roleNone {
		return nil
	}
	got, err := m.roleOf(from, c)
	if err != nil || got >= need {
		return err
	}
	m.askAbout(c, from, got)
	err = notReplica(from, c.id)
	if got > roleNone {
		err = wire.Errorf(wire.NotReplica, "raft", "node %s has %v in conversation %v, as far as this replica knows, and needs %v", from, got, c.id, need)
	}
	return m.refuse(from, c.id, RefusedRole, err)
}

// findWithRole finds a conversation, awake or not, in which from has the role that is needed.
func (m *Manager) findWithRole(from wire.NodeID, id wire.ConversationID, need role) (*conversation, error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	return c, m.checkRole(from, c, need)
}

// allow checks a frame against leastRoles before its handler sees it.
func (m *Manager) allow(from wire.NodeID, f *frame) error {
	need, known := leastRoles[f.kind]
	if !known {
		return wire.Errorf(wire.Malformed, "frame", "kind %d", f.kind)
	}
	if need == roleNone {
		return nil
	}
	_, err := m.findWithRole(from, f.conversation, need)
	return err
}

// setConfiguration copies the configuration from a snapshot or an entry.
func (f *fsm) setConfiguration(index uint64, c raft.Configuration) {
	f.mu.Lock()
	f.configIndex, f.config = index, c.Clone()
	f.mu.Unlock()
	if f.configured != nil {
		f.configured()
	}
}

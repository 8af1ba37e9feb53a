package timeline

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/mlsfed/mlsfed/content"
)

// Item is a content that a device has seen.
type Item struct {
	ID        content.MessageID
	Sender    string // the URI of the user
	Moderator bool   // in the epoch of the content, its sender had the right to delete messages of others
	Content   *content.Content
	Raw       []byte // the encoded content
}

// Link says that a reaction concerns a message.
type Link struct {
	ID     content.MessageID // of the reaction
	Sender string            // of the reaction
	// Via is the id that the reaction names: that of the message, or of an edit of it.
	Via content.MessageID
}

// Store has the states of one conversation. Its methods may return slices that the caller changes.
type Store interface {
	// Load returns the zero State for an id that no content has named.
	Load(id content.MessageID) (State, error)
	// Save keeps a state; nil deletes it.
	Save(id content.MessageID, s *State) error
	// Links returns the links of a message: those of one user, or of all users if sender is "".
	Links(target content.MessageID, sender string) ([]Link, error)
	// PutLink adds a link; DropLink deletes it.
	PutLink(target content.MessageID, l Link) error
	DropLink(target content.MessageID, l Link) error
}

// Effect is the kind of a change that a content makes.
type Effect uint8

// Effects.
const (
	NoEffect      Effect = 0 // the content was known, is not shown, or waits for its message
	Appeared      Effect = 1 // a message came
	Reacted       Effect = 2
	Withdrawn     Effect = 3 // a reaction was withdrawn
	Edited        Effect = 4
	Removed       Effect = 5 // the message was deleted, or has expired
	RefusedEdit   Effect = 6 // somebody else tried to edit the message
	RefusedDelete Effect = 7 // somebody else tried to delete the message
)

// Result says what Take has done.
type Result struct {
	Known  bool // the content was known before
	Role   Role
	Effect Effect
	// Message is the message that has changed: for a reaction, the message that it concerns.
	Message content.MessageID
	// Held is the id that the content waits for: zero if the content waits for none.
	Held content.MessageID
	// Touched are the ids whose states have changed.
	Touched []content.MessageID
}

// Take takes in a content. After it, the caller calls Expire for each id in Touched, because contents can come after
// their end.
func Take(s Store, it *Item) (*Result, error) {
	r, err := take(s, it)
	if err != nil || r.Known {
		return r, err
	}
	return r, settle(s, it.ID)
}

func take(s Store, it *Item) (*Result, error) {
	have, err := s.Load(it.ID)
	if err != nil {
		return nil, err
	}
	r := &Result{Known: have.Role != Unseen, Role: roleOf(it.Content)}
	if r.Known {
		r.Role = have.Role
		return r, nil
	}
	r.Touched = append(r.Touched, it.ID)
	have.Version, have.Role, have.Sender, have.Ends = stateVersion, r.Role, it.Sender, end(it.Content.Expires)
	if e := it.Content.Expires; e != nil && e.Relative && r.Role == Message {
		have.Relative, have.After = true, e.Seconds
	}
	switch r.Role {
	case Message:
		r.Message, r.Effect = it.ID, Appeared
		have.settle()
		return r, s.Save(it.ID, &have)
	case Reaction:
		have.Target, have.Texts = it.Content.InReplyTo, textsOf(it.Content)
		have.settle()
		return r, takeReaction(s, it, &have, r)
	case Edit, Delete:
		have.Target = it.Content.Replaces
		have.Ends = 0
		have.settle()
		if err := s.Save(it.ID, &have); err != nil {
			return nil, err
		}
		if r.Role == Edit {
			if err := relink(s, it.ID, have.Target); err != nil {
				return nil, err
			}
		}
		return r, takeAct(s, it, r)
	}
	have.settle()
	have.Ends = 0
	return r, s.Save(it.ID, &have)
}

func roleOf(c *content.Content) Role {
	switch c.Kind() {
	case content.KindUnlike, content.KindDelete:
		return Delete
	case content.KindEdit, content.KindReactionChange:
		return Edit
	case content.KindReaction:
		if c.InReplyTo.IsZero() {
			return Message // §B.2: a text
		}
		return Reaction
	case content.KindEmpty, content.KindProfile:
		return Other
	}
	return Message
}

// Root returns the message that an id means in inReplyTo: an edit means the message that it edits.
func Root(s Store, id content.MessageID) (content.MessageID, error) {
	named, err := s.Load(id)
	if err == nil && named.Role == Edit {
		return named.Target, nil
	}
	return id, err
}

func takeReaction(s Store, it *Item, have *State, r *Result) error {
	root, err := Root(s, have.Target)
	if err != nil {
		return err
	}
	message, err := s.Load(root)
	if err != nil {
		return err
	}
	r.Message = root
	switch {
	case message.Role == Unseen:
		r.Held = root
	case !have.Erased && !message.Erased && message.Role == Message:
		r.Effect = Reacted
	}
	if err := s.Save(it.ID, have); err != nil {
		return err
	}
	return link(s, root, Link{ID: it.ID, Sender: it.Sender, Via: have.Target})
}

// link attaches a reaction to a message. A reaction that does not count is erased.
func link(s Store, root content.MessageID, l Link) error {
	message, err := s.Load(root)
	if err != nil {
		return err
	}
	if message.Erased || message.Role != Unseen && message.Role != Message {
		return eraseReaction(s, l.ID)
	}
	if err := s.PutLink(root, l); err != nil {
		return err
	}
	all, err := s.Links(root, l.Sender)
	if err != nil || len(all) <= MaxReactions {
		return err
	}
	most := slices.MaxFunc(all, func(a, b Link) int { return a.ID.Compare(b.ID) })
	if err := s.DropLink(root, most); err != nil {
		return err
	}
	return eraseReaction(s, most.ID)
}

func eraseReaction(s Store, id content.MessageID) error {
	have, err := s.Load(id)
	if err != nil || have.Role != Reaction || have.Erased {
		return err
	}
	have.Erased = true
	have.settle()
	return s.Save(id, &have)
}

// relink attaches the reactions that name an edit to the message that the edit concerns.
func relink(s Store, edit, root content.MessageID) error {
	all, err := s.Links(edit, "")
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Via != edit || edit == root {
			continue
		}
		if err := s.DropLink(edit, l); err != nil {
			return err
		}
		if err := link(s, root, l); err != nil {
			return err
		}
	}
	return nil
}

// dropLinks erases the reactions of a user to a message, or those of all users if sender is "".
func dropLinks(s Store, id content.MessageID, sender string) error {
	all, err := s.Links(id, sender)
	if err != nil {
		return err
	}
	for _, l := range all {
		if err := s.DropLink(id, l); err != nil {
			return err
		}
		if err := eraseReaction(s, l.ID); err != nil {
			return err
		}
	}
	return nil
}

func takeAct(s Store, it *Item, r *Result) error {
	target := it.Content.Replaces
	on, err := s.Load(target)
	if err != nil {
		return err
	}
	a := Act{Kind: ActDelete, Sender: it.Sender, ID: it.ID, Moderator: it.Moderator}
	if r.Role == Edit {
		a.Kind, a.Moderator, a.Number, a.Ends, a.Raw = ActEdit, false, it.Content.EditNumber(), end(it.Content.Expires), bytes.Clone(it.Raw)
		if it.Content.Kind() == content.KindReactionChange {
			a.Kind, a.Raw, a.Texts = ActChange, nil, textsOf(it.Content)
		}
	}
	before := on.Erased
	on.Version = stateVersion
	on.add(a)
	r.Touched = append(r.Touched, target)
	r.Message = target
	if on.Role == Reaction {
		if r.Message, err = Root(s, on.Target); err != nil {
			return err
		}
	}
	r.Effect, r.Held = effectOf(&on, &a, before, target)
	if err := s.Save(target, &on); err != nil {
		return err
	}
	if on.Erased && !before {
		return dropLinks(s, target, "")
	}
	return nil
}

// effectOf returns the effect of an act on a state, or the id for which the act waits.
func effectOf(on *State, a *Act, before bool, target content.MessageID) (Effect, content.MessageID) {
	switch {
	case on.Role == Unseen:
		return NoEffect, target
	case !on.original() || before:
	case on.allowed(a):
		switch {
		case a.Kind == ActDelete && on.Role == Message:
			return Removed, content.MessageID{}
		case a.Kind == ActDelete:
			return Withdrawn, content.MessageID{}
		case a.Kind == ActChange:
			return Reacted, content.MessageID{}
		case on.Latest() != nil && on.Latest().ID == a.ID:
			return Edited, content.MessageID{}
		}
	case a.Sender == on.Sender || on.Role != Message:
	case a.Kind == ActDelete:
		return RefusedDelete, content.MessageID{}
	default:
		return RefusedEdit, content.MessageID{}
	}
	return NoEffect, content.MessageID{}
}

// settle drops the reactions of a message that is gone, and those of a content that is no message.
func settle(s Store, id content.MessageID) error {
	have, err := s.Load(id)
	if err != nil || have.Role == Unseen || have.Role == Message && !have.Erased {
		return err
	}
	return dropLinks(s, id, "")
}

// Expire erases what has ended of a message, and reports whether something was erased.
func Expire(s Store, id content.MessageID, now uint64) (bool, error) {
	have, err := s.Load(id)
	if err != nil || !have.expire(now) {
		return false, err
	}
	if err := s.Save(id, &have); err != nil {
		return false, err
	}
	return true, settle(s, id)
}

// Read records that the user has read a message, so that its relative end is known. It returns the state.
func Read(s Store, id content.MessageID, now uint64) (State, error) {
	have, err := s.Load(id)
	if err != nil || !have.Relative || have.Read || have.Erased {
		return have, err
	}
	have.Read = true
	have.Ends = earlier(have.Ends, max(1, now+uint64(have.After)))
	return have, s.Save(id, &have)
}

// Drop forgets what a user has done to a message that has not come, or the user's reactions to it: the caller holds a
// limited number of contents for messages that have not come.
func Drop(s Store, id content.MessageID, sender string) error {
	have, err := s.Load(id)
	if err != nil || have.Role != Unseen {
		return err
	}
	have.Acts = slices.DeleteFunc(have.Acts, func(a Act) bool { return a.Sender == sender })
	save := &have
	if have.empty() {
		save = nil
	}
	if err := s.Save(id, save); err != nil {
		return err
	}
	return dropLinks(s, id, sender)
}

// ShownReaction is a reaction of one user to a message.
type ShownReaction struct {
	Sender string
	Text   string            // "" for a reaction without a text, such as a picture
	ID     content.MessageID // of the reaction with the least id, if the user sent several with this text
}

// Bounds of the reactions that Reactions returns.
const (
	MaxShown  = 1024
	maxOfUser = 32 // of one user: one user must not use up MaxShown
)

// Reactions returns the reactions to a message that are to be shown: each text once for each user, sorted by text and
// user. now is in seconds after the start of the UNIX epoch.
func Reactions(s Store, id content.MessageID, now uint64) ([]ShownReaction, error) {
	return ReactionsOf(s, id, "", now)
}

// ReactionsOf is Reactions for one user; for all users if sender is "".
func ReactionsOf(s Store, id content.MessageID, sender string, now uint64) ([]ShownReaction, error) {
	all, err := s.Links(id, sender)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Link) int { return cmp.Or(cmp.Compare(a.Sender, b.Sender), a.ID.Compare(b.ID)) })
	var list []ShownReaction
	of, first := "", 0 // the user at hand, and where the user's reactions begin in list
	for _, l := range all {
		if l.Sender != of {
			of, first = l.Sender, len(list)
		}
		if sender == "" && len(list)-first >= maxOfUser {
			continue
		}
		have, err := s.Load(l.ID)
		if err != nil {
			return nil, err
		}
		if gone, _ := have.Gone(now); gone != Here {
			continue
		}
		texts := have.Texts
		if change := have.Latest(); change != nil {
			texts = change.Texts
		}
		if len(texts) == 0 {
			texts = []string{""}
		}
		for _, text := range texts {
			same := func(x ShownReaction) bool { return x.Sender == l.Sender && x.Text == text }
			if i := len(list); i > 0 && slices.ContainsFunc(list[max(0, i-MaxReactions*maxTexts):], same) {
				continue
			}
			list = append(list, ShownReaction{Sender: l.Sender, Text: text, ID: l.ID})
		}
		if len(list) > MaxShown {
			break
		}
	}
	slices.SortFunc(list, func(a, b ShownReaction) int {
		return cmp.Or(cmp.Compare(a.Text, b.Text), cmp.Compare(a.Sender, b.Sender))
	})
	return list[:min(len(list), MaxShown)], nil
}

// Forget erases a message that leaves the history. Its id stays known.
func Forget(s Store, id content.MessageID) error {
	have, err := s.Load(id)
	if err != nil || have.Role == Unseen {
		return err
	}
	have.Erased, have.Place = true, 0
	have.settle()
	if err := s.Save(id, &have); err != nil {
		return err
	}
	return settle(s, id)
}

package mlscore

import "slices"

// StagedWelcome is a Welcome that has been opened and verified in full, before its group is entered. Nothing is
// stored, and no key is consumed. Join enters the group, Drop discards the Welcome.
type StagedWelcome struct {
	join  *joining
	group *Group // nil once it is entered or dropped
}

// OpenWelcome opens a Welcome that was made for one of this client's KeyPackages (RFC 9420 §12.4.3.1). Errors:
// ErrNotForUs if the client has none of the KeyPackages in the Welcome, ErrMissing if the client lacks a PSK or the
// ratchet tree, ErrPolicy if the Authenticator refuses a member, ErrInvalid if the client has a group of that id;
// ErrMalformed, ErrForged and ErrInvalid for a bad Welcome.
func (c *Client) OpenWelcome(msg []byte, opts JoinOptions) (*StagedWelcome, error) {
	m, err := parseMessage(msg, c.cfg.Limits.Codec)
	if err != nil {
		return nil, err
	}
	if m.welcome == nil {
		return nil, fail(ErrMalformed, "§6", "message", "is a %v, not a Welcome", m.format)
	}
	s, err := c.suite(m.welcome.suite)
	if err != nil {
		return nil, err
	}
	j := &joining{client: c, suite: s, welcome: m.welcome, opts: opts}
	defer j.erase()
	for _, step := range []func() error{j.findKeyPackage, j.openSecrets, j.openState, j.checkLineage, j.derive} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	g := &Group{client: c, suite: s, options: opts.GroupOptions, updates: map[string]*ownUpdate{}, place: j.place}
	g.enter(j.state)
	return &StagedWelcome{j, g}, nil
}

// Public returns the group's public state: its id, extensions, members and tree.
func (w *StagedWelcome) Public() *PublicState { return w.join.public }

// Self returns the leaf of this client in the group.
func (w *StagedWelcome) Self() LeafIndex { return w.join.self }

// Signer returns the member who signed the GroupInfo in the Welcome: the committer.
func (w *StagedWelcome) Signer() Member {
	m, _ := w.join.public.Member(w.join.info.signer)
	return m
}

// KeyPackage returns this client's KeyPackage that the Welcome was made for.
func (w *StagedWelcome) KeyPackage() *KeyPackage { return w.join.record.keyPackage }

// Extensions returns the extensions of the GroupInfo, which may include external_pub and ratchet_tree.
func (w *StagedWelcome) Extensions() Extensions { return slices.Clone(w.join.info.extensions) }

// PSKs returns the ids of the pre-shared keys that the Welcome names.
func (w *StagedWelcome) PSKs() []PreSharedKeyID { return slices.Clone(w.join.secrets.psks) }

// Join enters the group and stores it, and erases the KeyPackage's keys, unless the KeyPackage is a last resort.
// Errors: ErrStore, after which Join can be tried again; ErrMisuse after Join or Drop; ErrInvalid if the client has
// entered a group of that id after OpenWelcome; ErrStale if the client has used or deleted the KeyPackage after
// OpenWelcome.
func (w *StagedWelcome) Join() (*Group, error) {
	g := w.group
	if g == nil {
		return nil, fail(ErrMisuse, "", "Welcome", "was joined or dropped before")
	}
	if err := w.join.unchanged(); err != nil {
		return nil, err
	}
	var b Batch
	if err := g.writeFounding(&b); err != nil {
		return nil, err
	}
	if !w.join.record.keyPackage.LastResort() {
		b.delete(keyPackageKey(w.join.ref))
	}
	defer b.erase()
	if err := applyBatch(g.client.cfg.Store, b); err != nil {
		return nil, err
	}
	w.group = nil
	return g, nil
}

// unchanged checks that the client can still join: group and KeyPackage are as they were when the Welcome was opened.
func (j *joining) unchanged() error {
	place, err := j.client.unused(j.info.context.GroupID)
	if err != nil {
		return err
	}
	if place != j.place {
		return taken(j.info.context.GroupID)
	}
	_, ok, err := j.client.cfg.Store.Get(keyPackageKey(j.ref))
	if err != nil {
		return storeError("KeyPackages", err)
	}
	if !ok {
		return fail(ErrStale, "§12.4.3.1", "Welcome", "its KeyPackage was used or deleted since")
	}
	return nil
}

// Drop discards the Welcome and erases its secrets. The KeyPackage's keys stay in the store, so that the Welcome can
// be opened again: see Client.DeleteKeyPackage.
func (w *StagedWelcome) Drop() {
	if w.group != nil {
		w.group.forget()
		w.group = nil
	}
}

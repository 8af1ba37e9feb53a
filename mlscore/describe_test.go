package mlscore

import (
	"fmt"
	"slices"
	"strings"
)

// describeGroup returns a text of all state of a group that must be the same after a restart.
func describeGroup(g *Group) string {
	var b strings.Builder
	st := g.state
	fmt.Fprintf(&b, "options %+v\n", g.options)
	describeState(&b, st)
	for _, p := range st.public.proposals {
		fmt.Fprintf(&b, "proposal %x %x\n", p.ref, p.content)
	}
	var refs []string
	for ref, u := range g.updates {
		refs = append(refs, fmt.Sprintf("update %x %x %x\n", ref, u.leafKey.Bytes(), u.signer.Bytes()))
	}
	slices.Sort(refs)
	b.WriteString(strings.Join(refs, ""))
	for at := range g.past {
		p, err := g.openPast(at)
		if err != nil {
			return fmt.Sprintf("past epoch %d: %v", g.past[at].epoch, err)
		}
		fmt.Fprintf(&b, "past epoch %d, context %x, sender data %x, leaves", p.epoch, p.context, p.senderData.Bytes())
		p.tree.eachLeaf(func(i LeafIndex, body string) bool {
			fmt.Fprintf(&b, " %d:%x", i, suites[0].hash([]byte(body))[:4])
			return true
		})
		fmt.Fprintf(&b, "\n%s\n", (&secretMachine{}).describe(p.messages))
	}
	if g.pending != nil {
		fmt.Fprintf(&b, "pending %x: %s\n", g.pending.message, summarize(g.pending.effects))
		describeState(&b, g.pending.next)
	}
	return b.String()
}

func describeState(b *strings.Builder, st *memberState) {
	fmt.Fprintf(b, "self %d, context %x, interim %x, tree %x, tag %x, reinit %+v, removed %v\n",
		st.self, st.public.encoded, st.public.interim, st.public.tree.hash(), st.confirmationTag, st.public.reinit, st.removed)
	fmt.Fprintf(b, "signer %x, keys", st.signer.Bytes())
	for level := range st.public.tree.height() + 1 {
		fmt.Fprintf(b, " %x", st.keys.at(level).Bytes())
	}
	b.WriteString(", secrets")
	for _, s := range st.secrets.stored() {
		fmt.Fprintf(b, " %x", s.Bytes())
	}
	fmt.Fprintf(b, ", encryption %x\n%s\n", st.secrets.encryption.Bytes(), (&secretMachine{}).describe(st.messages))
}

// summarize returns a text of a commit's effects, which must be the same for every member.
func summarize(e *Effects) string {
	name := func(list []Member) string {
		var s []string
		for _, m := range list {
			s = append(s, fmt.Sprintf("%d:%s", m.Leaf, m.Credential.Identity))
		}
		return strings.Join(s, ", ")
	}
	var types []string
	for _, p := range e.Proposals {
		types = append(types, p.Type.String())
	}
	return fmt.Sprintf("epoch %d by %v at leaf %d, external %v; added [%s]; removed [%s]; updated [%s]; proposals %v; extensions changed %v; data %q",
		e.Epoch, e.Sender, e.Committer, e.External, name(e.Added), name(e.Removed), name(e.Updated), types, e.ExtensionsChanged, e.AuthenticatedData)
}

package machine

import "github.com/mlsfed/mlsfed/wire"

// What parts of a state take in memory, in bytes, generously.
const (
	machineSize = 4 << 10
	keptSize    = 160 // a kept entry beside its bytes
	answerSize  = 320 // a remembered submission, in map and list
	addressSize = 64

	headSize     = 320
	ancestorSize = 256
)

// Size is about how much memory the state takes, in bytes, without the public group state of its heads.
func (m *Machine) Size() int {
	n := machineSize + m.recentBytes + keptSize*len(m.recent) + answerSize*len(m.answers)
	for _, h := range m.heads {
		n += addressSize*(len(h.delivery)+len(h.change.Add)+len(h.change.Remove)) + payloadSize(h.info) + payloadSize(h.tree)
	}
	return n
}

func payloadSize(p *wire.Payload) int {
	if p == nil {
		return 0
	}
	return len(p.Inline)
}

// Keeps returns how many entries, and how many of their bytes, a policy keeps.
func Keeps(p wire.Policy) (entries, bytes int) {
	entries, bytes, _ = keepLimits(p)
	return entries, bytes
}

package machine

import "github.com/mlsfed/mlsfed/wire"

// Upper estimates of the memory that parts of a state take, in bytes.
const (
	machineSize = 4 << 10
	keptSize    = 160 // a kept entry without its content
	answerSize  = 320 // a remembered submission, in map and list
	addressSize = 64

	headSize     = 320
	ancestorSize = 256
)

// Size returns the approximate memory of the state, in bytes, without the public group state of its heads.
func (m *Machine) Size() int {
	n := machineSize + m.held + keptSize*len(m.recent) + answerSize*len(m.answers)
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

// Keeps returns the number of entries, and of their bytes, that a policy keeps.
func Keeps(p wire.Policy) (entries, bytes int) {
	entries, bytes, _ = keepLimits(p)
	return entries, bytes
}

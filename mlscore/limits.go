package mlscore

import (
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Limits bound what a group takes on. A zero field stands for its default.
type Limits struct {
	// Codec bounds every message that is decoded; its defaults are those of package codec.
	Codec codec.Limits
	// Ratchet bounds what out-of-order delivery may cost: by default 1,000 generations ahead, and
	// 1,000 keys kept for each sender and kind of content.
	Ratchet RatchetLimits
	// Proposals is how many may wait for a commit: 4,096.
	Proposals int
	// PastEpochs is how many ended epochs can still read late application messages: 3; -1 for none.
	PastEpochs int
	// PastTime lets further ended epochs read them for this long after they ended here, by Config.Now: 0. A
	// member who takes in many commits at once has kept none of them for long. What is over is erased when
	// the next epoch begins. PastMost is how many ended epochs there may be in all: 16 times PastEpochs.
	PastTime time.Duration
	PastMost int
	// Resumption is the number of epochs whose resumption PSKs are kept, the present one among them: 8.
	Resumption int
}

func (l Limits) orDefault() Limits {
	setDefault(&l.Codec.Bytes, codec.DefaultLimits.Bytes)
	setDefault(&l.Codec.Count, codec.DefaultLimits.Count)
	setDefault(&l.Codec.Depth, codec.DefaultLimits.Depth)
	setDefault(&l.Ratchet.Ahead, 1000)
	setDefault(&l.Ratchet.Skipped, 1000)
	setDefault(&l.Proposals, 4096)
	setDefault(&l.PastEpochs, 3)
	setDefault(&l.Resumption, 8)
	l.PastEpochs = max(l.PastEpochs, 0)
	setDefault(&l.PastMost, 16*l.PastEpochs)
	if l.PastEpochs == 0 {
		l.PastMost = 0
	}
	return l
}

func setDefault[T int | uint32](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

package mlscore

import (
	"cmp"
	"time"

	"github.com/mlsfed/mlsfed/mlscore/codec"
)

// Limits bound the work and the memory of a group. A zero field means its default.
type Limits struct {
	// Codec bounds every message that is decoded; its defaults are those of package codec.
	Codec codec.Limits
	// Ratchet bounds the cost of out-of-order delivery: by default 1,000 generations ahead, and 1,000 stored keys for
	// each sender and content type.
	Ratchet RatchetLimits
	// Proposals is the maximum number of waiting proposals; default 4,096.
	Proposals int
	// PastEpochs is the number of ended epochs whose late application messages can still be read; default 3; -1 means
	// none.
	PastEpochs int
	// PastTime keeps further ended epochs for this long after they ended here, by Config.Now; default 0. A member who
	// processes many commits at once needs it: PastEpochs alone would keep none of those epochs for long. Epochs over
	// these bounds are erased when the next epoch begins. PastMost is the maximum number of ended epochs in all;
	// default 16 times PastEpochs.
	PastTime time.Duration
	PastMost int
	// Resumption is the number of epochs whose resumption PSKs are kept, the present epoch included; default 8.
	Resumption int
}

func (l Limits) orDefault() Limits {
	l.Codec.Bytes = cmp.Or(l.Codec.Bytes, codec.DefaultLimits.Bytes)
	l.Codec.Count = cmp.Or(l.Codec.Count, codec.DefaultLimits.Count)
	l.Codec.Depth = cmp.Or(l.Codec.Depth, codec.DefaultLimits.Depth)
	l.Ratchet.Ahead = cmp.Or(l.Ratchet.Ahead, 1000)
	l.Ratchet.Skipped = cmp.Or(l.Ratchet.Skipped, 1000)
	l.Proposals = cmp.Or(l.Proposals, 4096)
	l.PastEpochs = cmp.Or(l.PastEpochs, 3)
	l.Resumption = cmp.Or(l.Resumption, 8)
	l.PastEpochs = max(l.PastEpochs, 0)
	l.PastMost = cmp.Or(l.PastMost, 16*l.PastEpochs)
	if l.PastEpochs == 0 {
		l.PastMost = 0
	}
	return l
}

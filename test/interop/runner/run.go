package runner

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Options select what is played.
type Options struct {
	Suites []uint32 // nil means all that any peer supports
	// Private and Public select the handshakes; neither means both.
	Private, Public bool
	// Assignments is how many ways of assigning the roles to the peers are tried; zero means 16.
	Assignments int
	// Timeout is the time limit of one call; zero means two minutes.
	Timeout time.Duration
	// Seed makes the choice of assignments repeatable.
	Seed uint64
	// Progress is called at the end of each run; may be nil.
	Progress func(Result)
}

// Result is one run of a script.
type Result struct {
	Script  string
	Suite   uint32
	Private bool
	Roles   map[string]string // actor → peer
	Step    int               // the step that failed
	Err     error             // nil if the script was played to its end
}

// String describes what was played, and what failed.
func (r Result) String() string {
	handshakes := "public"
	if r.Private {
		handshakes = "private"
	}
	text := fmt.Sprintf("%s, suite %#04x, %s handshakes, %v", r.Script, r.Suite, handshakes, r.Roles)
	if r.Err != nil {
		text += fmt.Sprintf(": step %d: %v", r.Step, r.Err)
	}
	return text
}

// Play plays scripts with peers and returns all results. It stops early only if ctx ends.
func Play(ctx context.Context, peers []*Peer, scripts []Script, o Options) ([]Result, error) {
	if o.Assignments == 0 {
		o.Assignments = 16
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	suites := o.Suites
	if suites == nil {
		for _, p := range peers {
			suites = append(suites, p.Suites...)
		}
		slices.Sort(suites)
		suites = slices.Compact(suites)
	}
	modes := []bool{true, false}
	if o.Private != o.Public {
		modes = []bool{o.Private}
	}
	var results []Result
	for _, script := range scripts {
		for _, suite := range suites {
			var able []*Peer
			for _, p := range peers {
				if p.supports(suite) {
					able = append(able, p)
				}
			}
			for _, private := range modes {
				random := rand.New(rand.NewPCG(o.Seed, uint64(suite)))
				for _, roles := range Assignments(len(able), len(script.Actors()), o.Assignments, random) {
					if err := ctx.Err(); err != nil {
						return results, err
					}
					r := playOne(ctx, script, suite, private, able, roles, o.Timeout)
					results = append(results, r)
					if o.Progress != nil {
						o.Progress(r)
					}
				}
			}
		}
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("nothing was played: no peer supports any of the cipher suites %v", suites)
	}
	return results, nil
}

// playOne plays a script once.
func playOne(ctx context.Context, script Script, suite uint32, private bool, peers []*Peer, roles []int, timeout time.Duration) Result {
	r := Result{Script: script.Name, Suite: suite, Private: private, Roles: map[string]string{}}
	p := &play{
		ctx:     ctx,
		timeout: timeout,
		suite:   suite,
		private: private,
		actors:  map[string]*actor{},
		made:    make([]made, len(script.Steps)),
	}
	for i, name := range script.Actors() {
		peer := peers[roles[i]]
		p.actors[name] = &actor{name: name, peer: peer}
		r.Roles[name] = fmt.Sprintf("%s (%d)", peer.Name, roles[i])
	}
	for at := range script.Steps {
		p.at = at
		if r.Err = actions[script.Steps[at].Action](p, &script.Steps[at]); r.Err != nil {
			r.Step = at
			break
		}
	}
	if err := p.free(); err != nil && r.Err == nil {
		r.Step, r.Err = len(script.Steps), err
	}
	return r
}

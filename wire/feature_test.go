package wire

import (
	"errors"
	"strings"
	"testing"
)

func TestFeatures(t *testing.T) {
	many := make(Features, 0, MaxFeatures+1)
	for i := range MaxFeatures + 1 {
		many = append(many, Feature("f"+string(rune('a'+i/26))+string(rune('a'+i%26))))
	}
	for name, test := range map[string]struct {
		set Features
		ok  bool
	}{
		"none":         {nil, true},
		"some":         {NewFeatures("rules/2", "alarm", "alarm"), true},
		"unknown":      {Features{"something-of-2031"}, true},
		"the most":     {many[:MaxFeatures], true},
		"one more":     {many, false},
		"longest":      {Features{Feature(strings.Repeat("x", maxFeature))}, true},
		"too long":     {Features{Feature(strings.Repeat("x", maxFeature+1))}, false},
		"empty":        {Features{""}, false},
		"out of order": {Features{"b", "a"}, false},
		"twice":        {Features{"a", "a"}, false},
		"upper case":   {Features{"A"}, false},
		"escape":       {Features{"\x1b[2J"}, false},
	} {
		b, err := Encode(&FeaturesAnswer{Features: test.set})
		if err != nil {
			if test.ok {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		err = Decode(b, MaxSessionFrame, new(FeaturesAnswer))
		if (err == nil) != test.ok || !test.ok && !errors.Is(err, Malformed) {
			t.Errorf("%s: %v", name, err)
		}
		if err := Decode(b, MaxSessionFrame, new(FeaturesRequest)); (err == nil) != test.ok {
			t.Errorf("%s as a request: %v", name, err)
		}
	}
	set := NewFeatures("b", "a")
	if !set.Has("a") || !set.Has("b") || set.Has("c") || Features(nil).Has("a") {
		t.Error("Has is wrong")
	}
}

func FuzzFeatures(f *testing.F) { fuzz(f, func() any { return new(FeaturesAnswer) }) }

func TestRaiseLevel(t *testing.T) {
	now := &Replicas{Generation: 3, Voters: []NodeID{"n1.a.example"}, Learners: []NodeID{"n1.b.example"}}
	r := RaiseLevel(now, 2)
	if err := r.Check(); err != nil || now.Recovery != nil {
		t.Fatalf("%v, %v", err, now)
	}
	if level, ok := r.RaisesTo(3); !ok || level != 2 {
		t.Errorf("level %d %v", level, ok)
	}
	for name, change := range map[string]func(*Replicas){
		"another generation":  func(r *Replicas) { r.Generation = 4 },
		"no note":             func(r *Replicas) { r.Recovery = nil },
		"lost nodes":          func(r *Replicas) { r.Recovery.Lost = []NodeID{"n1.a.example"} },
		"the first level":     func(r *Replicas) { r.Recovery.Note = "rules/1" },
		"a level to come":     func(r *Replicas) { r.Recovery.Note = "rules/4" },
		"another spelling":    func(r *Replicas) { r.Recovery.Note = "rules/02" },
		"a note of operators": func(r *Replicas) { r.Recovery.Note = "b.example burnt down" },
	} {
		r := RaiseLevel(now, 2)
		change(r)
		if level, ok := r.RaisesTo(3); ok {
			t.Errorf("%s: raises to %d", name, level)
		}
	}
}

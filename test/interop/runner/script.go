// Package runner plays scripts with MLS implementations that serve the MLSClient protocol: each script for every
// cipher suite that they share, with private and public handshakes, and with its roles assigned to the
// implementations in different ways. It reads the script files of the MLS working group's runner.
package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// Script is a sequence of steps. A step refers to the results of earlier steps by their number, from 0.
type Script struct {
	Name  string
	Steps []Step
}

// Step is one step of a script; which fields it has depends on its action. See docs/interop.md.
type Step struct {
	Action string `json:"action"`
	Actor  string `json:"actor"`

	// Other actors.
	Members   []string `json:"members"`
	Joiner    string   `json:"joiner"`
	Joiners   []string `json:"joiners"`
	Clients   []string `json:"clients"`
	Signer    string   `json:"signer"`
	Member    string   `json:"member"`
	Proposer  string   `json:"proposer"`
	Committer string   `json:"committer"`
	Welcomer  string   `json:"welcomer"`

	// Earlier steps.
	Welcome                int   `json:"welcome"`
	Commit                 int   `json:"commit"`
	Ciphertext             int   `json:"ciphertext"`
	ByReference            []int `json:"byReference"`
	PSKs                   []int `json:"psks"`
	ExternalReinitProposal int   `json:"externalReinitProposal"`

	// The proposal of this step: made by a step of its own, by value in a commit, or by an external sender.
	Proposal
	ByValue     []Proposal `json:"byValue"`
	Description *Proposal  `json:"description"`

	RemovePrior       bool   `json:"removePrior"`
	AuthenticatedData string `json:"authenticatedData"`
	Plaintext         string `json:"plaintext"`

	// Both spellings are in use.
	ForcePath     bool `json:"force_path"`
	ForcePathToo  bool `json:"forcePath"`
	ExternalTree  bool `json:"external_tree"`
	ExternalTree2 bool `json:"externalTree"`
}

// Proposal describes a proposal.
type Proposal struct {
	Type              string      `json:"proposalType"`
	KeyPackage        int         `json:"keyPackage"` // step
	Removed           string      `json:"removed"`    // actor
	PSK               int         `json:"pskID"`      // step
	Epoch             uint64      `json:"epochID"`
	Extensions        []Extension `json:"extensions"`
	ChangeGroupID     bool        `json:"changeGroupID"`
	ChangeCipherSuite bool        `json:"changeCipherSuite"` // or changeCiphersuite: case does not matter
}

// Extension is an extension of a group.
type Extension struct {
	Type uint32 `json:"extension_type"`
	Data []byte `json:"extension_data"`
}

func (s *Step) path() bool { return s.ForcePath || s.ForcePathToo }
func (s *Step) tree() bool { return s.ExternalTree || s.ExternalTree2 }

// ReadFile reads the scripts of a file, sorted by name. An unknown field or action is an error.
func ReadFile(file string) ([]Script, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	list, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

// Parse is ReadFile for the content of a file.
func Parse(data []byte) ([]Script, error) {
	var file struct {
		Scripts map[string][]Step `json:"scripts"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("something follows the scripts")
	}
	var list []Script
	for _, name := range slices.Sorted(maps.Keys(file.Scripts)) {
		s := Script{name, file.Scripts[name]}
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("script %s: %w", name, err)
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no scripts")
	}
	return list, nil
}

// check refuses unknown actions, and references that do not refer to an earlier step.
func (s *Script) check() error {
	if len(s.Steps) == 0 {
		return fmt.Errorf("has no steps")
	}
	for at := range s.Steps {
		step := &s.Steps[at]
		if _, ok := actions[step.Action]; !ok {
			return fmt.Errorf("step %d: action %q is not known", at, step.Action)
		}
		refs := append(slices.Clone(step.ByReference), step.PSKs...)
		refs = append(refs, step.Welcome, step.Commit, step.Ciphertext, step.ExternalReinitProposal)
		proposals := append(slices.Clone(step.ByValue), step.Proposal)
		if step.Description != nil {
			proposals = append(proposals, *step.Description)
		}
		for _, p := range proposals {
			refs = append(refs, p.KeyPackage, p.PSK)
		}
		for _, ref := range refs {
			if ref < 0 || ref > at {
				return fmt.Errorf("step %d refers to step %d", at, ref)
			}
		}
	}
	return nil
}

// Actors lists all actors of a script, sorted.
func (s *Script) Actors() []string {
	set := map[string]bool{}
	for at := range s.Steps {
		step := &s.Steps[at]
		for _, list := range [][]string{
			{step.Actor, step.Joiner, step.Signer, step.Member, step.Proposer, step.Committer, step.Welcomer},
			step.Members, step.Joiners, step.Clients,
		} {
			for _, name := range list {
				set[name] = true
			}
		}
	}
	delete(set, "")
	return slices.Sorted(maps.Keys(set))
}

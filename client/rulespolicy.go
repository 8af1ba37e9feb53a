package client

import (
	"bytes"
	"crypto/x509"
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// rulesPolicy is the mlscore.Policy of a device: it checks proposals against the group's Rules. Its inputs, in addition
// to its argument, are the members of the epoch and the revocations that the commit proves; they are the same for all
// members. The holder of the turn sets the policy before the group works.
type rulesPolicy struct {
	members *mlscore.PublicState
	revoked map[string]bool // serial numbers that the commit proves to be revoked, by domain and number
	loading bool            // an own commit is being read back: it was checked when it was made
}

func (j *rulesPolicy) setGroup(members *mlscore.PublicState, revoked map[string]bool) {
	j.members, j.revoked = members, revoked
}

// AllowProposal implements mlscore.Policy.
func (j *rulesPolicy) AllowProposal(c mlscore.ProposalContext) error {
	if j.loading {
		return nil
	}
	rules, err := rulesOf(c.Group.Extensions)
	if err != nil {
		return err
	}
	if c.SenderLeaf == nil {
		return j.allowJoiner(c)
	}
	sender, err := deviceOf(c.SenderLeaf.Credential)
	if err != nil {
		return err
	}
	by := author{device: sender, leaf: c.SenderLeaf, admin: rules.Admin(sender.User()), rules: rules, accounts: knowAccounts(j.members)}
	switch c.Proposal.Type {
	case mlscore.ProposalAdd:
		return by.mayAdd(c.Proposal.Add, j.members)
	case mlscore.ProposalUpdate:
		if by.accounts {
			if err := sameAccount(c.SenderLeaf.Credential, c.Proposal.Update.Credential); err != nil {
				return err
			}
		}
		return sameToken(c.SenderLeaf.Extensions, c.Proposal.Update.Extensions)
	case mlscore.ProposalRemove:
		return j.mayRemove(by, c.Proposal.Remove)
	case mlscore.ProposalGroupContextExtensions:
		return by.mayChange(c.Group.Extensions, c.Proposal.Extensions, knowSuccession(j.members))
	case mlscore.ProposalReInit:
		return by.mayReInit(c.Group, c.Proposal.ReInit)
	case mlscore.ProposalPSK:
		if id := c.Proposal.PSK; c.Group.Epoch == 0 && id.Type == mlscore.PSKResumption && id.Usage == mlscore.UsageReInit {
			return nil // the founding of a successor: only its founder processes it
		}
	}
	return fmt.Errorf("proposals of type %v are not used here", c.Proposal.Type)
}

// allowJoiner judges proposals from outside the group: it allows only a device that returns by an external commit.
// When the commit is taken in, another check ensures that the device was a member.
func (j *rulesPolicy) allowJoiner(c mlscore.ProposalContext) error {
	if c.Sender.Type == mlscore.SenderNewMemberCommit &&
		(c.Proposal.Type == mlscore.ProposalExternalInit || c.Proposal.Type == mlscore.ProposalRemove) {
		return nil
	}
	return fmt.Errorf("a proposal of type %v from outside of the group", c.Proposal.Type)
}

// author is the member who makes a proposal.
type author struct {
	device DeviceID
	leaf   *mlscore.LeafNode
	admin  bool
	rules  *Rules
	// accounts means that an author's own devices have the same account, not only the same name.
	accounts bool
}

// owns reports whether a device is one of the author's own.
func (a *author) owns(device DeviceID, c mlscore.Credential) bool {
	return device.User() == a.device.User() && (!a.accounts || accountOf(a.leaf.Credential).Same(accountOf(c)))
}

func (a *author) mayAdd(kp *mlscore.KeyPackage, members *mlscore.PublicState) error {
	device, err := deviceOf(kp.LeafNode.Credential)
	if err != nil {
		return err
	}
	if _, err := tokenOf(kp.LeafNode.Extensions); err != nil {
		return fmt.Errorf("adds %s: %w", device, err)
	}
	if a.accounts && a.rules.Admin(device.User()) {
		if err := sameAdmin(members, device.User(), accountOf(kp.LeafNode.Credential)); err != nil {
			return err
		}
	}
	if a.admin || a.rules.MembersAdd || a.owns(device, kp.LeafNode.Credential) {
		return nil
	}
	return fmt.Errorf("%s may not add %s: only admins add users here", a.device, device)
}

func (j *rulesPolicy) mayRemove(by author, leaf mlscore.LeafIndex) error {
	if by.admin || by.rules.MembersRemove {
		return nil
	}
	target, ok := j.members.Member(leaf)
	if !ok {
		return fmt.Errorf("removes leaf %d, where nobody is", leaf)
	}
	device, err := deviceOf(target.Credential)
	if err != nil {
		return err
	}
	if by.owns(device, target.Credential) || j.isRevoked(target.Credential) {
		return nil
	}
	return fmt.Errorf("%s may not remove %s: only admins remove users here", by.device, device)
}

// mayChange judges new extensions. Where succession is known, checkSuccession judges a change of the admins by a
// member who is no admin, since that check needs the whole commit.
func (a *author) mayChange(old, next mlscore.Extensions, succession bool) error {
	rules, err := rulesOf(next)
	if err != nil {
		return err
	}
	if len(rules.Admins) == 0 && len(a.rules.Admins) > 0 {
		return fmt.Errorf("leaves the conversation without an admin")
	}
	if len(old) != len(next) {
		return fmt.Errorf("changes extensions that are not the rules")
	}
	for _, x := range old {
		if data, ok := next.Find(x.Type); !ok || x.Type != extensionRules && !bytes.Equal(data, x.Data) {
			return fmt.Errorf("changes extension %#04x", uint16(x.Type))
		}
	}
	if a.admin || a.rules.MembersRename && a.rules.renames(rules) {
		return nil
	}
	if named := *rules; succession {
		named.Admins = a.rules.Admins
		if a.rules.renames(&named) && (named.Name == a.rules.Name || a.rules.MembersRename) {
			return nil
		}
	}
	return fmt.Errorf("%s may not change the rules: only admins do here", a.device)
}

// deviceOf returns the device that a credential names. It verifies nothing.
func deviceOf(c mlscore.Credential) (DeviceID, error) {
	device, _, err := holderOf(c)
	return device, err
}

func certificateOf(c mlscore.Credential) (*x509.Certificate, error) {
	if c.Type != mlscore.CredentialX509 || len(c.Certificates) == 0 {
		return nil, fmt.Errorf("credential of type %d, wanted x509", c.Type)
	}
	return x509.ParseCertificate(c.Certificates[0])
}

// tokenOf returns the mailbox token of a leaf's owner.
func tokenOf(x mlscore.Extensions) (wire.Token, error) {
	var t wire.Token
	b, ok := x.Find(extensionAddress)
	if !ok || len(b) != len(t) {
		return t, fmt.Errorf("leaf without a mailbox address")
	}
	copy(t[:], b)
	if t == (wire.Token{}) {
		return t, fmt.Errorf("leaf with a mailbox address of zeros")
	}
	return t, nil
}

func addressExtension(t wire.Token) mlscore.Extensions {
	return mlscore.Extensions{{Type: extensionAddress, Data: t[:]}}
}

func sameToken(old, next mlscore.Extensions) error {
	a, err := tokenOf(old)
	if err != nil {
		return err
	}
	b, err := tokenOf(next)
	if err == nil && a != b {
		err = fmt.Errorf("changes its mailbox address")
	}
	return err
}

// addressOf returns the mailbox address of a member.
func addressOf(m mlscore.Member) (wire.Address, error) {
	device, err := deviceOf(m.Credential)
	if err != nil {
		return wire.Address{}, err
	}
	token, err := tokenOf(m.Extensions)
	return wire.Address{Organization: device.Organization(), Token: token}, err
}

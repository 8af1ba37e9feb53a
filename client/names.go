package client

import (
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// The identifiers, numbers and errors in the API of this package. Packages wire and mlscore define them; an application
// needs neither package.
type (
	// ConversationID is the identifier of a conversation, 16 bytes. Its text form has 32 hexadecimal digits.
	ConversationID = wire.ConversationID
	// Domain is the domain name of an organization, as "a.example", in lower case.
	Domain = wire.Domain
	// NodeID is the name of a node of an organization, as "n1.a.example".
	NodeID = wire.NodeID
	// UserID is the address of a user, as "mimi://a.example/u/alice".
	UserID = wire.UserID
	// DeviceID is the address of a device of a user, as "mimi://a.example/d/alice/phone".
	DeviceID = wire.DeviceID
	// AccountID identifies the account of a person: a name that is given to another person has another AccountID.
	AccountID = wire.AccountID
	// Epoch is the number of an epoch of a group: RFC 9420 §2.
	Epoch = wire.Epoch
	// SequenceNumber is the place of an entry in the log of a conversation, from 1.
	SequenceNumber = wire.SequenceNumber
	// Policy has the properties of a conversation that its nodes enforce. A Policy does not change.
	Policy = wire.Policy
	// Error is an error of a node or of a Device, with a Code, the operation and the reason.
	Error = wire.Error
	// CipherSuite is a cipher suite of MLS: RFC 9420 §5.1.
	CipherSuite = mlscore.CipherSuite
	// Secret is a secret, which formatting does not print.
	Secret = mlscore.Secret
)

// ParseConversationID parses the text form of a ConversationID.
func ParseConversationID(s string) (ConversationID, error) { return wire.ParseConversationID(s) }

// ParseUserID parses the address of a user.
func ParseUserID(s string) (UserID, error) { return wire.ParseUserID(s) }

// ParseDeviceID parses the address of a device.
func ParseDeviceID(s string) (DeviceID, error) { return wire.ParseDeviceID(s) }

// ParseDomain parses the domain name of an organization.
func ParseDomain(s string) (Domain, error) { return wire.ParseDomain(s) }

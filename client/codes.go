package client

import "github.com/mlsfed/mlsfed/wire"

// Code is the kind of failure of an error. errors.Is(err, client.Denied) holds for each error that wraps one with
// that code, and CodeOf returns the code.
type Code = wire.Code

// The codes that applications act on. Package wire has the others; a Device handles those by itself.
const (
	// Denied: an invitation, token or certificate is not accepted, or the rules do not let this user do it.
	Denied = wire.Denied
	// Exists: the device is enrolled already, the name is taken, or the user is a member already.
	Exists = wire.Exists
	// NotFound: the user or device does not exist.
	NotFound = wire.NotFound
	// NoneLeft: no device of the user has a KeyPackage left: one of the devices has to be online to upload some.
	NoneLeft = wire.NoneLeft
	// NotAdmitted: the own organization does not talk to the other one: the operator of the own organization can
	// change that.
	NotAdmitted = wire.NotAdmitted
	// UnknownConversation: this device has no such conversation.
	UnknownConversation = wire.UnknownConversation
	// Closed: the conversation has ended, or this device is out of it.
	Closed = wire.Closed
	// StaleEpoch: other members change the group too often: try again later.
	StaleEpoch = wire.StaleEpoch
	// NoQuorum: no majority of the conversation's nodes can be reached. Waiting submissions are tried again
	// automatically.
	NoQuorum = wire.NoQuorum
	// Unavailable: a node is stopping or cannot be reached. Waiting submissions are tried again automatically.
	Unavailable = wire.Unavailable
	// Busy: over a rate: try again after a while.
	Busy = wire.Busy
	// Quota: over a quota: wait, delete something, or ask the operator.
	Quota = wire.Quota
	// TooLarge: over a limit: make it smaller, or send a file.
	TooLarge = wire.TooLarge
	// Invalid: not allowed in the present state.
	Invalid = wire.Invalid
	// Malformed: an argument breaks a rule of its format.
	Malformed = wire.Malformed
	// Forged: a signature or a hash does not verify: the content is not what its sender made.
	Forged = wire.Forged
	// Version: made by a newer build: upgrade.
	Version = wire.Version
)

// CodeOf returns the code of an error: "" for nil, and "internal" for an error without a code, such as a failure of
// the network or of a disk.
func CodeOf(err error) Code { return wire.CodeOf(err) }

// Package recordstore has the interface between a directory and the storage of its records: the records, and the
// operations on them. Package directorytest checks an implementation against the contract that is here.
//
// # Contract
//
//   - A change is on disk as a whole or not at all. Update, UpdateSubject, AddRevocations, RenewList and Restored
//     return when their change is on disk. A crash loses nothing of it afterwards.
//   - Note and Sweep do not wait for the disk. A crash may lose their change. It is there after a crash if a later
//     change is there that waited for the disk. The order of changes is kept: a crash never loses a change and keeps a
//     later one.
//   - An operation whose context has ended changes nothing and returns the context's error. A change that is being
//     written is finished: the end of the context does not interrupt it.
//   - A method that reads one record returns nil if there is no such record.
package recordstore

import (
	"context"

	"github.com/mlsfed/mlsfed/wire"
)

// Store keeps the records of one organization. It is safe for concurrent use.
type Store interface {
	Reads
	// Update changes the records of one user. An implementation may call stage again after a conflict: what stage does
	// outside of its Tx must bear a repetition. From the beginning of stage until the change can be read, no other change
	// of that user is staged. An error of stage changes nothing, and Update returns it. Update waits for the disk even
	// if stage changes nothing: what stage has read may be an earlier change that is not on disk yet.
	Update(ctx context.Context, u wire.UserID, stage func(Tx) error) error
	// Note is Update without waiting for the disk.
	Note(ctx context.Context, u wire.UserID, stage func(Tx) error) error
	// UpdateSubject is an Update that binds a user to a subject, or ends a binding. No two of them are staged at the
	// same time, so that two users cannot bind one subject.
	UpdateSubject(ctx context.Context, u wire.UserID, stage func(Tx) error) error
	// AddRevocations adds certificates to the revoked ones, and ends the life of the revocation list.
	AddRevocations(ctx context.Context, list ...Revocation) error
	// RenewList replaces the revocation list by the one that next returns; nil keeps the present list. next gets the
	// present list, empty if there is none, and the revocations of certificates that end at now or later, by serial
	// number. Neither the list nor the revocations change meanwhile.
	RenewList(ctx context.Context, now wire.Time, next func(List, []Revocation) (*List, error)) error
	// Restored deletes all KeyPackages, invitations and claims, but neither last resorts nor marks of KeyPackages that
	// were taken.
	Restored(ctx context.Context) error
	// Sweep deletes the records that have ended, and the addresses of devices that were removed.
	Sweep(ctx context.Context, t Times) error
}

// Times are the times that Sweep compares with.
type Times struct {
	Now    wire.Time // for what ends at a time of day
	Count  wire.Time // for invitations, by the clock that does not jump
	Claims wire.Time // claims of before have ended
}

// Reads are the operations that change nothing. Within a change they show the records without the change.
type Reads interface {
	User(ctx context.Context, u wire.UserID) (*User, error)
	// Users returns all users, by name. org is the organization whose store this is.
	Users(ctx context.Context, org wire.Domain) ([]User, error)
	Account(ctx context.Context, u wire.UserID) (*Account, error)
	Accounts(ctx context.Context, org wire.Domain) ([]Account, error)
	Person(ctx context.Context, u wire.UserID) (*Person, error)

	Device(ctx context.Context, v wire.DeviceID) (*Device, error)
	// Devices returns the devices of a user, by name.
	Devices(ctx context.Context, u wire.UserID) ([]wire.DeviceID, error)
	// DevicesAt returns the devices that receive at addresses. It leaves out an address of no device, and an address
	// of a device that was removed, even if a later device has the same name.
	DevicesAt(ctx context.Context, tokens ...wire.Token) (map[wire.Token]wire.DeviceID, error)
	Invitation(ctx context.Context, hash wire.Hash) (*Invitation, error)

	// Known reports whether a device has a KeyPackage, by its reference, or had it until it was taken.
	Known(ctx context.Context, k *KeyPackage) (bool, error)
	// Pool returns the number of a device's KeyPackages of a suite that end after now, and their bytes.
	Pool(ctx context.Context, v wire.DeviceID, suite uint16, now wire.Time) (count, bytes int, err error)
	LastResort(ctx context.Context, v wire.DeviceID, suite uint16) (*LastResort, error)
	LastResorts(ctx context.Context, v wire.DeviceID) ([]LastResort, error)
	Claim(ctx context.Context, by Claimant, id wire.SubmissionID) (*Claim, error)
	// Buckets returns the rates of claims by a claimant from a user; a time that was never set is 0.
	Buckets(ctx context.Context, by Claimant, u wire.UserID) (Buckets, error)

	Use(ctx context.Context, t wire.Token, id wire.ConversationID) (*Use, error)
	// Uses counts the conversations that an address was used or refused for, up to most.
	Uses(ctx context.Context, t wire.Token, most int) (int, error)
	Shared(ctx context.Context, t wire.Token) (*Shared, error)

	Subject(ctx context.Context, u wire.UserID) (*Subject, error)
	// SubjectUser returns the user of a subject of an issuer, "" if there is none.
	SubjectUser(ctx context.Context, issuer, subject string) (wire.UserID, error)
	Token(ctx context.Context, u wire.UserID, hash wire.Hash) (*Token, error)
	// Tokens counts the used tokens of a user that end at now or later, up to most.
	Tokens(ctx context.Context, u wire.UserID, now wire.Time, most int) (int, error)

	Revoked(ctx context.Context, serial []byte) (bool, error)
	List(ctx context.Context) (*List, error)
}

// Tx is a change that is being made. It is valid until stage returns.
type Tx interface {
	Reads
	// Set writes records. A record replaces the record with the same key.
	Set(ctx context.Context, records ...Record) error
	// Take removes the KeyPackage of a device and a suite that ends first after now, and marks it as taken until it
	// ends. left is the number of KeyPackages after that, counted up to most. It returns nil if there is none.
	Take(ctx context.Context, v wire.DeviceID, suite uint16, now wire.Time, most int) (k *KeyPackage, left int, err error)
	// RemoveUser removes a user with the account id, the subject and the invitations, but not the devices, the Account
	// and the used tokens.
	RemoveUser(ctx context.Context, u wire.UserID) error
	// RemoveDevice removes a device with its KeyPackages and last resorts.
	RemoveDevice(ctx context.Context, v wire.DeviceID) error
	// RemoveKeyPackages removes the KeyPackages and last resorts of a device.
	RemoveKeyPackages(ctx context.Context, v wire.DeviceID) error
	// RemoveSubject ends the binding of a user to a subject.
	RemoveSubject(ctx context.Context, u wire.UserID) error
}

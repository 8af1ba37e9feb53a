package lineage

import "time"

// Limits of the formats. docs/reach.md has a table of them.
const (
	MaxLinks     = 16        // links in a document
	MaxRoots     = 2         // root certificates in a link
	MaxRoot      = 1 << 10   // bytes of a root certificate
	MaxLink      = 3 << 10   // bytes of a signed link
	MaxStatement = 2 << 10   // bytes of a signed statement
	MaxContacts  = 4         // contacts in a statement
	MaxContact   = 256       // bytes of a contact
	MaxRecords   = 8         // node records in a document
	MaxRecord    = 2 << 10   // bytes of a node record
	MaxDocument  = 96 << 10  // bytes of a document
	maxSigners   = 2         // signatures of a link or statement
	maxSignature = 144       // bytes of a signature: ECDSA over P-521 needs 139
	keyIDSize    = 8         // bytes of a key id
	maxPin       = 128 << 10 // bytes of an encoded pin
	maxEvidence  = MaxLinks + 2
	day          = 24 * time.Hour
)

// Times of a statement.
const (
	MaxValidity = 400 * day // from its issue to its end
	MaxAhead    = day       // how far issue and serial may be ahead of the clock
)

// Package mlscore is Messaging Layer Security, RFC 9420 with its errata: groups of two to a hundred
// thousand clients that agree on keys, one commit after the other, while whoever carries their
// messages learns none of them.
//
// It is a pure core. It reads no clock, opens no file or socket, logs nothing, and starts no goroutine
// that outlives a call: time, randomness and storage are handed in through a [Config].
//
// # Using it
//
// A [Client] is one device. It publishes KeyPackages, creates groups and joins them. A [Group] is that
// device's view of one group:
//
//   - Protect encrypts an application message. Propose and its kin ask for a change. Commit makes the
//     waiting changes and gives this member new keys.
//   - Process takes in whatever the others send, in the order in which the delivery service gives it.
//   - A commit, made or received, is a [StagedCommit] first: the next epoch, beside the present one.
//     Merge enters it. Whoever makes a commit sends it and merges it when the delivery service has
//     accepted it; if somebody else's is accepted for the same epoch, merging that one drops the own.
//
// The caller's duties, in order: (1) hand every handshake message to Process in the agreed order, own
// commits included; (2) merge each commit before the next is processed; (3) hold a message that fails
// with [ErrFuture] until the commit in between has come; (4) send what an operation returned, even
// after a crash: a [Store] is given each message in the batch that uses its key up.
//
// docs/scenarios has a page with a whole program for each task.
//
// A server that sees a group's handshakes as PublicMessages follows them with a [PublicState], and
// refuses what members would refuse. [Peek] reads the header of any message.
//
// # Failures
//
// Every error is an [*Error]: a kind for errors.Is, the clause of RFC 9420, the object and what is
// wrong with it. A message or operation that fails has changed nothing.
//
//	ErrStale, ErrReplay   drop the message
//	ErrFuture             hold it
//	ErrNotForUs           route it elsewhere
//	ErrMalformed,
//	ErrForged, ErrInvalid a bad message; its sender is broken or hostile
//	ErrPolicy             refused by the application's own Authenticator or Policy
//	ErrUnsupported        made with something that this client does not know
//	ErrMissing            something has to be fetched first
//	ErrLimit              over a configured limit
//	ErrOwnMessage         sent by this very member
//	ErrGroupEnded         removed from the group, or the group was closed
//	ErrStore              the Store refused; try again
//	ErrMisuse             a mistake of the caller's
//
// # RFC 9420, clause by clause
//
//	§2.1        codec/                               presentation language
//	§5.1        suite.go, hpke.go, kem.go,           cipher suites, HPKE, signatures,
//	            signature.go, labels.go              labelled operations
//	            suite_pq.go, kem_mlkem.go,           those of draft-ietf-mls-pq-ciphersuites,
//	            signature_mldsa.go                   described in docs/suites.md
//	§5.3        credential.go, x509.go               credentials, Authenticator
//	§6          framing.go, protect.go, padding.go   messages, their protection, padding
//	§7.1–7.3    leafnode.go, extension.go            leaf nodes, capabilities
//	§7.4–7.6    treekem.go                           update paths
//	§7.7        tree.go, treeedit.go, treemath.go    the ratchet tree and its changes
//	§7.8, 7.9   treehash.go                          tree hashes, parent hashes
//	§8          keyschedule.go, psk.go               key schedule, transcript, PSKs, exporter
//	§9          secrettree.go                        message keys
//	§10         keypackage.go, keypackages.go        KeyPackages, and those of a client
//	§11         group.go, lineage.go                 founding, reinitialization, branching
//	§12.1       proposal.go, send.go                 proposals
//	§12.2, 12.3 rules.go, memberindex.go,            valid lists and what they do
//	            keyindex.go, choose.go
//	§12.4       commit.go, process.go, merge.go,     commits
//	            publicstate.go, effects.go,
//	            waiting.go                           proposals that wait for one
//	§12.4.3     welcome.go, openwelcome.go, join.go, joining, external commits,
//	            groupinfo.go,
//	            treecodec.go, treevalidate.go        the ratchet tree's encoding and validation
//	§13.5       client.go                            GREASE
//	§15.3       limits.go, secrettree.go             late and reordered messages
//
// store.go, state.go, records.go and load.go keep a client's state, publicstore.go what a server knows of a
// group; docs/state.md describes the records. movegroup.go moves a group from one store to another.
//
// # Size
//
// A tree is immutable and shares all that did not change with the tree before it; hashes are kept per
// node, keys and identities are indexed, message keys are derived on demand. So making, processing,
// storing and merging a commit costs what its path costs, O(log n) where the tree is populated, and a
// message costs the same in a group of any size.
package mlscore

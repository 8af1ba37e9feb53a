// Package mlscore implements Messaging Layer Security (RFC 9420 with its errata). Groups of two to a hundred thousand
// clients agree on keys, one commit after the other; the servers that carry their messages learn none of the keys.
//
// The package is a pure core. It reads no clock, opens no file or socket, logs nothing, and starts no goroutine that
// outlives a call: time, randomness and storage come from a [Config].
//
// # How it works
//
// A [Client] is one device. It publishes KeyPackages, creates groups and joins them. A [Group] is that device's view of
// one group:
//
//   - [Group.Protect] encrypts an application message. [Group.Propose] requests a change. [Group.Commit] makes the
//     waiting changes and gives this member new keys.
//   - [Group.Process] processes each message of the others, in the order of the delivery service.
//   - A commit, made or received, is a [StagedCommit] at first: the next epoch, kept apart from the present one.
//     [Group.Merge] enters it. The committer sends the commit and merges it when the delivery service has accepted it;
//     if another commit is accepted for the same epoch, merging that one drops the own.
//
// The caller must:
//
//  1. pass every handshake message to Process in the agreed order, own commits included;
//  2. merge each commit before the next is processed;
//  3. hold a message that fails with [ErrFuture] until the missing commit has been merged;
//  4. send each message that an operation returned, even after a crash: the [Store] receives each message in the batch
//     that consumes the message's key.
//
// # Tasks
//
// The folder docs/scenarios has a page with a whole program for each task; the examples of this package are the same
// programs.
//
//   - Create a group, add members: [Client.CreateGroup], [AddProposal], [Group.Commit] (create.md)
//   - Join with a Welcome: [Client.NewKeyPackage], [Client.Join], [Client.OpenWelcome] (join.md)
//   - Join without an invitation: [Group.GroupInfo], [Client.ExternalJoin], [ExternalCommit.Complete] (external-join.md)
//   - Remove a member, or leave: [RemoveProposal], [Group.ProposeLeave] (remove.md)
//   - Replace a group by one with other parameters: [ReInitProposal], [Group.Successor] (reinit.md)
//   - Create a subgroup: [Group.Branch] (branch.md)
//   - Mix in a pre-shared key: [Client.StorePSK], [Group.ExternalPSK], [Group.ResumptionPSK] (psk.md)
//   - Let a server propose: [ExternalSendersExtension], [ProposeExternally] (external-sender.md)
//   - Use extensions of one's own: [Config], [ExtensionsProposal], [LeafUpdate] (custom-extension.md)
//   - Use proposals of one's own: [CustomProposal], [Effects] (custom-proposal.md)
//   - Identify members by certificates: [X509Credential], [X509Authenticator] (x509.md)
//   - Come back after a loss of state: [ExternalOptions] with Resync (rejoin.md)
//   - Derive secrets for the application: [Group.Export] (export.md)
//   - Move a group to another device: [Client.OfferImport], [Group.MoveOut], [Client.ImportGroup] (move.md)
//
// # Types by subject
//
//   - A device: [Client], [Config], [Identity], [KeyPackage], [KeyPackageOptions], [Store], [MemoryStore], [Batch]
//   - A group: [Group], [CreateOptions], [GroupOptions], [Member], [LeafIndex], [GroupContext], [Extensions]
//   - Entering one: [JoinOptions], [StagedWelcome], [ExternalCommit], [ExternalOptions], [Founding], [FoundOptions]
//   - Messages: [Received], [ApplicationMessage], [MessageOptions], [Padding], [Header] (see [Peek])
//   - Changes: [Proposal], [WaitingProposal], [Commit], [CommitOptions], [LeafUpdate], [StagedCommit], [Effects]
//   - Trust: [Authenticator] and its implementations [TrustBasic], [TrustBasicDevices], [X509Authenticator], [ByType];
//     [Policy] for further rules about proposals
//   - A server that follows a group: [PublicState], [PublicConfig], [GroupInfo], [KeyPackage.Verify]
//   - Algorithms and keys: [CipherSuite], [Secret], [GenerateSignatureKey], [Sign], [VerifySignature]
//   - Bounds and choices: [Limits], [Intake], [GREASE]
//
// A server that sees a group's handshakes as PublicMessages follows the group with a [PublicState], and refuses messages
// that members would refuse. [Peek] reads the header of any message.
//
// # Failures
//
// Every error is an [*Error]: a kind for errors.Is, the clause of RFC 9420, the object and its fault. A message or
// operation that fails changes nothing.
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
//	ErrOwnUnknown         made by this member in a later state: the Store is an older copy
//	ErrGroupEnded         removed from the group, or the group was closed
//	ErrStore              the Store refused; try again
//	ErrMisuse             a mistake of the caller's
//
// # Size
//
// A tree is immutable and shares all unchanged nodes with the previous tree; hashes are cached per node, keys and
// identities are indexed, message keys are derived on demand. The cost of making, processing, storing and merging a
// commit is therefore the cost of its path, O(log n) in a populated tree. A message costs the same in a group of any
// size.
package mlscore

// The files by clause of RFC 9420:
//
//	§2.1        codec/                               presentation language
//	§5.1        suite.go, hpke.go, kem.go,           cipher suites, HPKE, signatures,
//	            signature.go, labels.go              labelled operations
//	            suite_pq.go, kem_mlkem.go,           those of draft-ietf-mls-pq-ciphersuites,
//	            signature_mldsa.go                   described in docs/spec/suites.md
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
//	§12.1       proposal.go, proposaltable.go,       proposals: their form, the rules of each type,
//	            send.go                              and how a member sends one
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
// The files about storage: store.go, state.go, records.go and load.go store a client's state, publicstore.go encodes a
// server's view of a group; docs/spec/state.md describes the records. movegroup.go moves a group from one store to
// another.
//
// The files about test vectors and benchmarks: vectors*.go and vectormake*.go for package mlscore/vectors, fabricate.go
// and primitives.go for package mlscore/mlsbench, which reach them through inside.go.

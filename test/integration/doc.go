// Package integration runs federations as containers and breaks them.
//
//	go test -timeout 15m -tags integration -v ./test/integration      the short form
//	MLSFED_LONG=full go test -timeout 90m -tags integration -v ./test/integration
//
// Every organization is a container of the image that docker/build.sh makes, started by docker/up.sh as a person
// would do it. The clients run in the test process, with the SDK, and reach their nodes over WebSocket through
// published ports, so that faults of the network between organizations do not affect them.
//
//	suite.go       what scenarios share, and the table at the end
//	docker.go      the docker command line, and a helper process that removes what a killed test leaves
//	federation.go  a federation: start, faults, logs
//	people.go      devices and conversations
//	tap.go         listens in on the sessions, and so knows the history of submissions
//	judge.go       the judgement with which every scenario ends
//	disk.go        disks for an organization: small ones, slow ones, some that stand still
//	archive.go     what is kept of a scenario that failed
//
// A scenario is a test in a file of its own. It needs a Docker daemon and fails without one: it never passes
// silently. docs/testing.md describes how to run and how to add a scenario.
package integration

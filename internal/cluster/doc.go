// Package cluster runs a federation in one process: some organizations with a node each, in a folder,
// with real sockets on loopback, TLS, fsync and Raft. The demonstration, the tests and developers of
// clients use it.
//
//	c, err := cluster.New(dir, cluster.Options{}, "a.example", "b.example", "c.example")
//	err = c.StartAll(ctx)
//	defer c.Close()
//	alice, err := c.Device(ctx, "a.example", "alice", "phone")
//	id, err := alice.Create(ctx, client.CreateOptions{Name: "Lunch"})
//
// Every organization admits every other one. The folders are like those of 'mlsfed init', so that 'mlsfed serve' can
// run a node of the cluster too.
package cluster

// Package quota keeps the account of the bytes that others have a node store: its devices, and the
// organizations that it federates with.
//
// A byte is charged before it is written and released after it is deleted. The owner of a byte is a
// device, an organization, or the node itself. A device's bytes count for its user too, so that many
// devices are no way around a limit. The account lives in memory: each store reports what is on its disk
// when it opens, so that the account is right again after a crash.
//
// Nothing of a device or of another organization is written when the disk has less free space than the reserve. The
// node's own writes, which it needs to go on, may use the reserve.
package quota

// Package operator has the commands for the operator of a node: they make its files, run it, and ask the running node
// through its control socket.
package operator

import "github.com/spf13/cobra"

// Commands returns the commands for operators, in new trees. A node that serve runs reports the version.
func Commands(version string) []*cobra.Command {
	return []*cobra.Command{
		newInit(), newAddNode(), newServe(version), newUser(), newPeer(), newCert(), newConfig(), newDoctor(), newAudit(),
		newStatus(), newHealth(), newBackup(), newRestore(), newRecover(), newRelease(), newDrop(), newStorage(),
	}
}

// Package people has the commands with which a person uses a device: enrolment, conversations, members, messages. A
// command opens the profile of the device and acts as a Person, or lets a process that holds the profile act: the
// holder (see agent_frame.go).
package people

import "github.com/spf13/cobra"

// Commands returns the commands for people, in new trees. Package chat has another one.
func Commands() []*cobra.Command {
	return []*cobra.Command{
		newLogin(), newLogout(), newList(), newCreate(), newDM(), newAlias(), newForget(), newAdd(), newRemove(), newLeave(),
		newSend(), newRead(), newSave(), newMembers(), newDevices(), newVerify(), newRename(), newRules(), newMigrate(),
		newRejoin(), newTrust(), newAgent(), newReply(), newReact(), newEdit(), newDelete(), newExpire(),
	}
}

package client

import (
	"fmt"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// extensionReaders is listed in the capabilities of a leaf whose device knows reports about delivery lists. In a
// Welcome's GroupInfo it holds the report of the committer.
//
// A node can hide from its own devices that a conversation has a silent reader. It cannot hide that from the devices
// of other organizations. So each device binds its node's answer into its commits and Welcomes, where all members
// list the extension, and compares the reports of other members.
const extensionReaders mlscore.ExtensionType = 0xf0a9

// readersReport holds a node's answer about the delivery list of one epoch, and the list that follows from the
// members.
type readersReport struct {
	List    wire.DeliveryHead `cbor:"1,keyasint"`
	Members wire.DeliveryHead `cbor:"2,keyasint"`
}

// Check refuses a report about two epochs, or about none.
func (r *readersReport) Check() error {
	if r.List.Parent == 0 || r.List.Parent != r.Members.Parent {
		return wire.Errorf(wire.Malformed, "delivery", "a report compares the lists of epochs that entries %d and %d opened", r.List.Parent, r.Members.Parent)
	}
	return nil
}

// contradicts reports whether the delivery list differs from that of the members.
func (r *readersReport) contradicts() bool { return r.List != r.Members }

// maxReport bounds the encoding of a report, in bytes.
const maxReport = 256

// reportReaders returns this device's report to the members, or nil if it has nothing to report or a member does not
// know reports.
func (t *conversation) reportReaders() (*readersReport, error) {
	if t.rec.State != StateActive || !t.group.Public().AllSupport(extensionReaders) {
		return nil, nil
	}
	var know tendedRecord
	_, err := t.u.getRecord(t.tendedKey(), &know)
	return know.Readers, err
}

// readersExtension returns the report for joining devices. A device that does not know the extension ignores it.
func (t *conversation) readersExtension() (mlscore.Extensions, error) {
	r, err := t.reportReaders()
	if err != nil || r == nil {
		return nil, err
	}
	raw, err := wire.Encode(r)
	return mlscore.Extensions{{Type: extensionReaders, Data: raw}}, err
}

// reportOfWelcome returns the report in a Welcome, or nil if there is none, and the member that made it.
func reportOfWelcome(w *mlscore.StagedWelcome) (*readersReport, DeviceID, error) {
	raw, ok := w.Extensions().Find(extensionReaders)
	if !ok {
		return nil, "", nil
	}
	by, err := deviceOf(w.Signer().Credential)
	if err != nil {
		return nil, "", err
	}
	r := new(readersReport)
	return r, by, wire.Decode(raw, maxReport, r)
}

// takeReport raises an alarm, once in a run of the device, when a member reports a delivery list that differs from
// that of the members, or from the answer of this device's node for the same epoch.
func (t *conversation) takeReport(r *readersReport, by DeviceID) error {
	if r == nil || t.d.self == nil || by == t.d.self.Device {
		return nil
	}
	if r.contradicts() {
		t.alarmOnce(by, fmt.Errorf("the node of %s delivered it to %d addresses at entry %d, and its members had %d: its founder or a server added a reader and did not say so, or left a member out", by, r.List.Addresses, r.List.Parent, r.Members.Addresses))
		return nil
	}
	var know tendedRecord
	if _, err := t.u.getRecord(t.tendedKey(), &know); err != nil {
		return err
	}
	if own := know.Readers; own != nil && own.List.Parent == r.List.Parent && own.List != r.List {
		t.alarmOnce(by, fmt.Errorf("the node of %s delivered it to other addresses at entry %d than the node of this device", by, r.List.Parent))
	}
	return nil
}

// alarmOnce is alarm for reports that a member repeats with each commit: it raises one alarm for each member and run.
func (t *conversation) alarmOnce(by DeviceID, err error) {
	if t.d.reports.first(fmt.Sprintf("%s %s", t.id, by)) {
		t.alarm(by, err)
	}
}

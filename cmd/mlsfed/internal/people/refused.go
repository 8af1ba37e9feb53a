package people

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/wire"
)

// refused reports whether the node does not accept this device.
func refused(err error) bool {
	var closed *client.CloseError
	if errors.As(err, &closed) {
		return closed.Code == wire.CloseRevoked || closed.Code == wire.CloseLogin
	}
	return wire.CodeOf(err) == wire.Denied
}

// explainRefusal returns an error with a text for the person.
func explainRefusal(p *Person, err error) error {
	if refused(err) {
		return notAccepted{fmt.Errorf("%s does not accept %s any more: %s. 'mlsfed login LINK' enrols a new device; --offline shows what is kept here, and 'mlsfed logout --offline --yes' deletes it", p.DeviceID.Organization(), cli.DeviceName(p.DeviceID), p.whyRefused())}
	}
	return cli.Plain(err)
}

// whyRefused describes why a node refuses this device. The node itself gives no reason, which would reveal to
// strangers which devices exist.
func (p *Person) whyRefused() string {
	ends, err := p.certificateEnds()
	if err != nil || time.Now().Before(ends) {
		return "it was revoked, or its node has forgotten it, as after a restoration from a backup"
	}
	return fmt.Sprintf("it was away when its certificate ended, on %s, and was revoked or stayed away for longer than its organization renews a certificate (for 90 days after its end, unless the operator has chosen otherwise)", p.Local(ends).Format(time.DateOnly))
}

func (p *Person) certificateEnds() (time.Time, error) {
	if p.Device == nil {
		return time.Time{}, client.ErrNotEnrolled
	}
	return p.CertificateEnds(context.Background()) // the command's own context has ended with the device
}

// notAccepted reports that the organization no longer accepts a device.
type notAccepted struct{ error }

func (e notAccepted) Unwrap() error { return e.error }

package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/internal/audit"
	"github.com/mlsfed/mlsfed/internal/tokenbucket"
	"github.com/mlsfed/mlsfed/wire"
)

// auditFolder is the default place of the audit log, in a node's data.
const auditFolder = "audit"

// AuditFolder returns the folder of the audit log of a configuration.
func AuditFolder(cfg *config.Config) string {
	if cfg.Audit.Dir != "" {
		return cfg.Audit.Dir
	}
	return filepath.Join(cfg.Data, auditFolder)
}

// OpenAudit prepares the audit log of a configuration, for a node and for commands that act without one.
func OpenAudit(cfg *config.Config, now func() time.Time) (*audit.Log, error) {
	c := auditLimits(&cfg.Audit)
	c.Dir, c.Now = AuditFolder(cfg), now
	return audit.Open(c)
}

// auditor writes the audit log of a running node. If an act cannot be recorded, the act has happened all the same:
// the fault is logged and counted, and does not undo the act.
type auditor struct {
	log    *audit.Log
	logger *slog.Logger
	failed atomic.Uint64
	head   atomic.Pointer[audit.Mark]

	more chan struct{} // holds one: a change of a link waits

	mu      sync.Mutex // guards what follows; not held while a record is written
	links   map[wire.Domain]*linkRecords
	waiting []linkChange
}

// linkRecords bounds the records that one organization causes by closing and opening links.
type linkRecords struct {
	rate    tokenbucket.Bucket
	leftOut int
}

// linkRate bounds the records of links with one organization.
var linkRate = tokenbucket.Rate{Burst: 20, Every: time.Minute}

func newAuditor(cfg *config.Config, now func() time.Time, logger *slog.Logger) (*auditor, error) {
	log, err := OpenAudit(cfg, now)
	return &auditor{log: log, logger: logger, more: make(chan struct{}, 1), links: make(map[wire.Domain]*linkRecords)}, err
}

// note records an act.
func (a *auditor) note(what audit.Act, who, on string, with map[string]string) {
	mark, rotated, err := a.log.Append(what, who, on, with)
	if err != nil {
		a.failed.Add(1)
		a.logger.Error("an act is not in the audit log", "act", string(what), "who", who, "on", on, "error", err)
		return
	}
	a.head.Store(&mark)
	if rotated || what == audit.NodeStarted {
		a.logger.Info("the audit log goes on: keep this mark, 'mlsfed audit verify --mark' compares it", "mark", mark.String())
	}
}

// link queues a record that the link to a node went up or down, at a bounded rate for each organization. The next
// record counts the records that were left out. link does not wait for the disk.
func (a *auditor) link(self, n wire.NodeID, up bool, why string) {
	org := n.Organization()
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.links[org]
	if r == nil {
		r = new(linkRecords)
		a.links[org] = r // bounded by the number of admitted organizations with links
	}
	now := time.Now()
	if !r.rate.Has(linkRate, now) || len(a.waiting) >= maxWaiting {
		r.leftOut++
		return
	}
	r.rate.Take(linkRate, now, 1)
	change := linkChange{what: audit.LinkUp, self: self, node: n, with: make(map[string]string)}
	if !up {
		change.what, change.with["reason"] = audit.LinkDown, why
	}
	if r.leftOut > 0 {
		change.with["left_out_before"] = strconv.Itoa(r.leftOut)
		r.leftOut = 0
	}
	a.waiting = append(a.waiting, change)
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// linkChange is a change of a link that waits to be written.
type linkChange struct {
	what       audit.Act
	self, node wire.NodeID
	with       map[string]string
}

// maxWaiting bounds the changes of links that wait to be written.
const maxWaiting = 4096

// run writes the changes of links until ctx ends, and then those that still wait.
func (a *auditor) run(ctx context.Context) error {
	for {
		a.flush()
		select {
		case <-a.more:
		case <-ctx.Done():
			a.flush()
			return nil
		}
	}
}

func (a *auditor) flush() {
	a.mu.Lock()
	list := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	for _, c := range list {
		a.note(c.what, byNode(c.self), string(c.node), c.with)
	}
}

// These functions name the actor of a record.
func byNode(n wire.NodeID) string     { return "node:" + string(n) }
func byDevice(d wire.DeviceID) string { return "device:" + string(d) }

type callerKey struct{}

// withCaller stores in the context which user of the machine is at the other end of the control socket.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	uid, ok := uidOf(c)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, uid)
}

// byCaller returns the operator who asks through the control socket.
func byCaller(ctx context.Context) string {
	if uid, ok := ctx.Value(callerKey{}).(uint32); ok {
		return operatorOf(strconv.FormatUint(uint64(uid), 10))
	}
	return "operator:"
}

// ByOperator returns the operator who runs this process, in the form of the audit log.
func ByOperator() string {
	who := operatorOf(strconv.Itoa(os.Geteuid()))
	if by := os.Getenv("SUDO_USER"); by != "" && os.Geteuid() == 0 {
		who += fmt.Sprintf(" for %.64s", by)
	}
	return who
}

func operatorOf(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("operator:%s (%s)", u.Username, uid)
	}
	return "operator:" + uid
}

package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/internal/quota"
)

// measureCosts registers metrics of what devices and other organizations cost the node, and of what was refused.
func (n *Node) measureCosts() {
	register := func(c prometheus.Collector) { n.metrics.MustRegister(c) }
	labelled := func(name, help, label, value string, fn func() uint64) {
		register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "mlsfed", Name: name, Help: help, ConstLabels: prometheus.Labels{label: value},
		}, func() float64 { return float64(fn()) }))
	}
	account := n.stores.account
	for _, k := range quota.Kinds() {
		register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "mlsfed", Name: "stored_bytes", Help: "Bytes stored for devices, other organizations and the node itself, by kind.",
			ConstLabels: prometheus.Labels{"kind": k.String()},
		}, func() float64 { return float64(account.Sum(k)) }))
	}
	disk := func(name, help string, fn func(free, reserved uint64) uint64) {
		register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "mlsfed", Name: name, Help: help}, func() float64 {
			free, reserved, _ := n.stores.disk.Free() // zero where the system does not say
			return float64(fn(free, reserved))
		}))
	}
	disk("disk_free_bytes", "Free space of the disk with the data folder.", func(free, _ uint64) uint64 { return free })
	disk("disk_reserve_bytes", "Free space below which nothing is taken from devices and other organizations.", func(_, reserved uint64) uint64 { return reserved })
	for _, r := range quota.Reasons() {
		labelled("store_refused_total", "Writes refused because of a quota or of the disk's reserve, by reason.", "reason", string(r), func() uint64 { return account.Refused(r) })
	}
	for name, count := range n.router.limits.refusals() {
		labelled("rate_refused_total", "Conversations, handshakes and invitations refused because of a rate, by limit.", "limit", name, count.Load)
	}
	for kind := range n.orders.Sent() {
		labelled("order_sent_bytes_total", "Bytes sent to other nodes for the ordering of conversations, by kind, without TLS.", "kind", kind, func() uint64 { return n.orders.Sent()[kind] })
	}
	for reason, fn := range map[string]func() uint64{
		"founded": n.router.founded.refusals,
		"policy":  func() uint64 { return uint64(n.orders.Counts().RefusedPolicies) },
	} {
		labelled("conversations_refused_total", "Conversations refused: a user has founded too many, or the policy keeps too much.", "reason", reason, fn)
	}
	register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "mlsfed", Name: "conversations_need_recovery", Help: "Conversations without a majority of voters that have their logs: 'mlsfed recover' forces them on.",
	}, func() float64 { return float64(len(n.orders.NeedRecovery())) }))
	register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "mlsfed", Name: "conversations_crowded_total", Help: "Wakes and entries refused, since the awake conversations that an organization brought take quota.memory.",
	}, func() float64 { return float64(n.orders.Counts().MemoryRefusals) }))
	register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "mlsfed", Name: "conversations_given_back_total", Help: "Replicas given back: none of the addresses is a device's here, or the policy keeps too much.",
	}, func() float64 { return float64(n.orders.Counts().GivenBack) }))
	register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "mlsfed", Name: "disk_full_waits_total", Help: "Writes of the database that found the disk full and waited for room.",
	}, func() float64 { return float64(n.stores.full.Waits()) }))
}

// Storage describes what others have stored on the node.
type Storage struct {
	Free          uint64            `json:"free"`    // bytes of the disk
	Reserve       uint64            `json:"reserve"` // bytes that must stay free
	Organizations []Stored          `json:"organizations"`
	Users         []Stored          `json:"users"`
	Refused       map[string]uint64 `json:"refused"` // writes, by reason
	Limited       map[string]uint64 `json:"limited"` // requests over a rate, by limit
}

// Stored describes what one organization, or one user of this organization, has stored.
type Stored struct {
	Owner string            `json:"owner"`
	Bytes uint64            `json:"bytes"`
	By    map[string]uint64 `json:"by"` // by kind
}

// shownOwners is how many organizations and how many users a status names.
const shownOwners = 5

func (n *Node) storage() Storage {
	s := Storage{Refused: make(map[string]uint64), Limited: make(map[string]uint64), Organizations: []Stored{}, Users: []Stored{}}
	s.Free, s.Reserve, _ = n.stores.disk.Free() // zero where the system does not say
	organizations, users := n.stores.account.Top(shownOwners)
	for _, u := range organizations {
		s.Organizations = append(s.Organizations, Stored{string(u.Owner), u.Bytes, u.By})
	}
	for _, u := range users {
		s.Users = append(s.Users, Stored{string(u.Owner), u.Bytes, u.By})
	}
	for _, r := range quota.Reasons() {
		if n := n.stores.account.Refused(r); n > 0 {
			s.Refused[string(r)] = n
		}
	}
	for name, count := range n.router.limits.refusals() {
		if n := count.Load(); n > 0 {
			s.Limited[name] = n
		}
	}
	return s
}

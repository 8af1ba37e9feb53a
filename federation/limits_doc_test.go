package federation

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/federation/outbox"
)

// TestDocumentedLimits holds that the table of limits in the document has the defaults of the source.
func TestDocumentedLimits(t *testing.T) {
	raw, err := os.ReadFile("../docs/spec/federation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(raw), "\n## Limits\n")
	if !ok {
		t.Fatal("there is no heading Limits")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	l, timers := Defaults()
	lanes := outbox.Defaults()
	size := func(n int) string {
		switch {
		case n >= 1<<30 && n%(1<<30) == 0:
			return fmt.Sprintf("%d GiB", n>>30)
		case n >= 1<<20 && n%(1<<20) == 0:
			return fmt.Sprintf("%d MiB", n>>20)
		case n > 1<<20:
			return fmt.Sprintf("%d MiB + %d KiB", n>>20, n>>10&1023)
		}
		return fmt.Sprintf("%d KiB", n>>10)
	}
	second := func(every time.Duration) int { return int(time.Second / every) }
	want := map[string]string{
		"body of a call; answer":            size(l.Request) + "; " + size(l.Answer),
		"calls of one organization":         fmt.Sprintf("%s a second, %s at once, %d under way", grouped(int(l.Calls)), grouped(l.CallBurst), l.UnderWay),
		"their bytes":                       fmt.Sprintf("%s a second, %s at once", size(int(l.Bytes)), size(l.ByteBurst)),
		"connections":                       fmt.Sprintf("%d of one organization", l.Connections),
		"gossip of one organization":        fmt.Sprintf("%d packets and %s a second, %d exchanges of state at once", int(l.GossipPackets), size(int(l.GossipBytes)), l.GossipStreams),
		"packet; exchange of state; record": size(l.Packet) + "; " + size(l.State) + "; " + size(l.Record),
		"records that an organization gets as answers, and asks for them":      fmt.Sprintf("%s a second, %s at once", size(int(l.Answers)), size(l.AnswersBurst)),
		"links to other organizations that a node opens; links being opened":   fmt.Sprintf("%d; %d", l.Links, l.Dialing),
		"attempts to reach nodes that failed three times in a row":             fmt.Sprintf("%d a second", second(l.Redials.Every)),
		"nodes of one organization":                                            fmt.Sprint(l.Nodes),
		"outbox, of one organization":                                          fmt.Sprintf("%s items, %s, each for %d days", grouped(lanes.MaxItems), size(int(lanes.MaxBytes)), int(lanes.Expire/(24*time.Hour))),
		"outbox of an organization that is more than half full, for each user": fmt.Sprintf("one %dth of it at once, again after %d h", lanes.Shares, lanes.ShareFor/time.Hour),
		"handshake; dialing; a frame or body that has begun":                   fmt.Sprintf("%d s; %d s; %d s", timers.Handshake/time.Second, timers.Dial/time.Second, timers.Stall/time.Second),
		"silence on a link":                                                         fmt.Sprintf("%d s", 3*timers.KeepAlive/time.Second),
		"a call without an answer":                                                  fmt.Sprintf("%d s", timers.Call/time.Second),
		"connections that have not proved who they are":                             fmt.Sprintf("%d; a quarter", l.Admission.Unproved),
		"failed handshakes of one address (IPv6: /64)":                              fmt.Sprintf("%d at once, %d a minute", l.Admission.Failures.Burst, int(time.Minute/l.Admission.Failures.Every)),
		"the same of an address that an admitted node has come from within an hour": fmt.Sprintf("%d connections at once, %d a second", l.Admission.Slowed.Burst, second(l.Admission.Slowed.Every)),
		"HTTP/2 frames of one organization that are no DATA of at least 1 KiB: PING, SETTINGS, RST_STREAM, empty DATA and the others": fmt.Sprintf("%s a second, %s at once", grouped(int(l.Frames)), grouped(l.FrameBurst)),
	}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) < 2 {
			continue
		}
		what := strings.TrimSpace(cells[0])
		if value, ok := want[what]; ok {
			delete(want, what)
			if !strings.HasPrefix(strings.TrimSpace(cells[1]), value) {
				t.Errorf("%s: the document says %q, the source %q", what, cells[1], value)
			}
		}
	}
	for what := range want {
		t.Errorf("the document has no row %q", what)
	}
}

// grouped writes 25001 as "25,001".
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

package people

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// zoneFile is where Unix systems keep the zone of the machine, and maxZone bounds, in bytes, what is read of such a
// file.
const (
	zoneFile = "/etc/localtime"
	maxZone  = 1 << 20
)

// zoneOf returns the zone of a process whose variable TZ is set to name, or not set. It follows what package time
// does for its own process: UTC for a name of no zone.
func zoneOf(name string, set bool) *time.Location {
	name = strings.TrimPrefix(name, ":")
	switch {
	case !set:
		return zoneIn(zoneFile, "Local")
	case name == "":
		return time.UTC
	case strings.HasPrefix(name, "/"):
		return zoneIn(name, name)
	}
	if zone, err := time.LoadLocation(name); err == nil {
		return zone
	}
	return time.UTC
}

func zoneIn(path, name string) *time.Location {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() { // a pipe would never end
		return time.UTC
	}
	f, err := os.Open(path)
	if err != nil {
		return time.UTC
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxZone))
	if err != nil {
		return time.UTC
	}
	zone, err := time.LoadLocationFromTZData(name, b)
	if err != nil {
		return time.UTC
	}
	return zone
}

// Local returns a time in the zone of the process in which the person gave the command.
func (p *Person) Local(t time.Time) time.Time {
	if p.guest == nil {
		return t.Local()
	}
	return t.In(p.guest.zone)
}

// Now returns the present time in that zone.
func (p *Person) Now() time.Time { return p.Local(time.Now()) }

// home returns the person's home folder in that process, "" if it is not known.
func (p *Person) home() string {
	if p.guest != nil {
		return string(p.guest.request.Home)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return home
}

// zonedNow returns the present time for a command that has no person yet.
func zonedNow(ctx context.Context) time.Time {
	if g := guestOf(ctx); g != nil {
		return time.Now().In(g.zone)
	}
	return time.Now()
}

// HomePath resolves ~ as the person's shell does.
func (p *Person) HomePath(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home := p.home(); home != "" {
			return filepath.Join(home, rest)
		}
	}
	return path
}

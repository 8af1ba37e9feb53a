package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// source describes what a release is built from.
type source struct {
	Version string // v0.1.0, or a pseudo-version
	Commit  string
	Date    string // of the commit, RFC 3339 in UTC
	Dirty   bool   // the work tree differs from the commit
}

// when returns the date of all files of the release.
func (s *source) when() (time.Time, error) { return time.Parse(time.RFC3339, s.Date) }

// semantic matches a version by semantic versioning with a leading v.
var semantic = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// describe completes the given values by what git reports about the work tree at root.
func describe(ctx context.Context, root string, given source, allowDirty bool) (s source, err error) {
	s = given
	if s.Version == "" || s.Commit == "" || s.Date == "" {
		if err := fromGit(ctx, root, &s); err != nil {
			return s, fmt.Errorf("%w: outside of a clone, give -version, -commit and -date", err)
		}
	}
	if s.Dirty && !allowDirty {
		return s, errors.New("the work tree has changes that are in no commit: commit them, or call it with -dirty")
	}
	if s.Dirty {
		s.Version += "+dirty"
	}
	if !semantic.MatchString(s.Version) {
		return s, fmt.Errorf("version %q: wanted one as v1.2.3", s.Version)
	}
	at, err := s.when()
	if err != nil {
		return s, fmt.Errorf("date: %w", err)
	}
	s.Date = at.UTC().Format(time.RFC3339)
	return s, nil
}

func fromGit(ctx context.Context, root string, s *source) error {
	commit, err := git(ctx, root, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	seconds, err := git(ctx, root, "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return err
	}
	status, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return err
	}
	at := time.Unix(n, 0).UTC()
	s.Dirty = status != ""
	s.Commit, s.Date = cmp.Or(s.Commit, commit), cmp.Or(s.Date, at.Format(time.RFC3339))
	if s.Version == "" {
		tag, _ := git(ctx, root, "describe", "--tags", "--exact-match", "--match", "v[0-9]*") // no tag is no failure
		last, _ := git(ctx, root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
		s.Version = cmp.Or(tag, pseudo(last, commit, at))
	}
	return nil
}

// pseudo returns the version of a commit without a tag, in the form of the go command: higher than the last version
// before the commit, and lower than the next.
func pseudo(last, commit string, at time.Time) string {
	suffix := at.UTC().Format("20060102150405") + "-" + commit[:12]
	m := semantic.FindStringSubmatch(last)
	switch {
	case m == nil:
		return "v0.0.0-" + suffix
	case m[4] != "": // a prerelease: v1.2.3-rc.1
		return fmt.Sprintf("v%s.%s.%s%s.0.%s", m[1], m[2], m[3], m[4], suffix)
	}
	patch, err := strconv.Atoi(m[3])
	if err != nil {
		return "v0.0.0-" + suffix
	}
	return fmt.Sprintf("v%s.%s.%d-0.%s", m[1], m[2], patch+1, suffix)
}

func git(ctx context.Context, root string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "git", args...)
	c.Dir, c.Env = root, append(os.Environ(), "LC_ALL=C")
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

var (
	testCommit = strings.Repeat("0123456789", 4)
	testTime   = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
)

// TestPseudo checks that the versions are those of the go command, so that they sort between the releases.
func TestPseudo(t *testing.T) {
	for last, want := range map[string]string{
		"":            "v0.0.0-20300102030405-012345678901",
		"no":          "v0.0.0-20300102030405-012345678901",
		"v0.1.0":      "v0.1.1-0.20300102030405-012345678901",
		"v0.2.0-rc.1": "v0.2.0-rc.1.0.20300102030405-012345678901",
	} {
		if got := pseudo(last, testCommit, testTime); got != want || !semantic.MatchString(got) {
			t.Errorf("after %q: %q, want %q", last, got, want)
		}
	}
	for _, bad := range []string{"0.1.0", "v1", "v01.2.3", "v1.2.3 ", "v1.2.3-", ""} {
		if semantic.MatchString(bad) {
			t.Errorf("%q is taken for a version", bad)
		}
	}
}

// TestDescribe checks that a tag, a commit after it, and a work tree with changes have versions of their own.
func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	do := func(args ...string) {
		t.Helper()
		c := exec.Command("git", args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a.example", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@a.example", "GIT_COMMITTER_DATE=2030-01-02T03:04:05Z", "GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(prefix string, allowDirty bool) source {
		t.Helper()
		s, err := describe(t.Context(), dir, source{}, allowDirty)
		if err != nil || !strings.HasPrefix(s.Version, prefix) || s.Date != "2030-01-02T03:04:05Z" || len(s.Commit) != 40 {
			t.Fatalf("%+v, %v: wanted a version with %q", s, err, prefix)
		}
		return s
	}
	do("init", "-q")
	write("1")
	do("add", "file")
	do("commit", "-qm", "one")
	wants("v0.0.0-20300102030405-", false)
	do("tag", "-a", "-m", "release", "v0.1.0")
	if s := wants("v0.1.0", false); s.Version != "v0.1.0" {
		t.Errorf("a tagged commit has the version %s", s.Version)
	}
	write("2")
	if _, err := describe(t.Context(), dir, source{}, false); err == nil {
		t.Error("a work tree with changes is released")
	}
	if s := wants("v0.1.0", true); s.Version != "v0.1.0+dirty" || !s.Dirty {
		t.Errorf("with changes: %+v", s)
	}
	do("commit", "-qam", "two")
	wants("v0.1.1-0.20300102030405-", false)

	given := source{Version: "v0.3.0", Commit: testCommit, Date: "2030-01-02T04:04:05+01:00"}
	s, err := describe(t.Context(), t.TempDir(), given, false)
	if err != nil || s.Date != "2030-01-02T03:04:05Z" || s.Version != "v0.3.0" {
		t.Errorf("outside of a clone: %+v, %v", s, err)
	}
}

// TestImageIsTheDockerfile checks that docker/build.sh and the image of a release agree.
func TestImageIsTheDockerfile(t *testing.T) {
	b, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			got = append(got, line)
		}
	}
	c := imageConfig()
	list := func(v []string) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(b), ",", ", ")
	}
	ports, volumes := keys(c.ExposedPorts), keys(c.Volumes)
	slices.Reverse(ports)
	for i := range ports {
		ports[i] = strings.TrimSuffix(ports[i], "/tcp")
	}
	h := c.Healthcheck
	want := []string{
		"FROM scratch",
		"COPY mlsfed " + c.Entrypoint[0],
		"COPY --chown=" + c.User + " data " + volumes[0],
		"USER " + c.User,
		"ENV " + c.Env[0],
		"VOLUME " + volumes[0],
		"EXPOSE " + strings.Join(ports, " "),
		fmt.Sprintf("HEALTHCHECK --interval=%v --timeout=%v --start-period=%v --retries=%d CMD %s",
			h.Interval, h.Timeout, h.StartPeriod, h.Retries, list(h.Test[1:])),
		"STOPSIGNAL " + c.StopSignal,
		"ENTRYPOINT " + list(c.Entrypoint),
		"CMD " + list(c.Cmd),
	}
	if !slices.Equal(got, want) {
		t.Errorf("Dockerfile has\n%s\nthe image of a release is\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func keys(m map[string]struct{}) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	sort.Strings(list)
	return list
}

// TestLayout checks that the archive of an image names its blobs by their content, and is the same each time.
func TestLayout(t *testing.T) {
	s := source{Version: "v0.1.0", Commit: testCommit, Date: testTime.Format(time.RFC3339)}
	var archives [2]bytes.Buffer
	for i := range archives {
		list, err := layout("layer", "linux/arm64", s, testTime)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeTar(&archives[i], list, testTime); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("two archives of one image differ")
	}
	files := make(map[string][]byte)
	for r := tar.NewReader(&archives[0]); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var manifests []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifests); err != nil || len(manifests) != 1 {
		t.Fatalf("manifest.json: %v", err)
	}
	m := manifests[0]
	if string(files[m.Layers[0]]) != "layer" || !bytes.Contains(files[m.Config], []byte(`"architecture":"arm64"`)) || m.RepoTags[0] != "mlsfed:v0.1.0" {
		t.Errorf("manifest %+v, config %s", m, files[m.Config])
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	path := "blobs/sha256/" + strings.TrimPrefix(index.Manifests[0].Digest, "sha256:")
	if len(files[path]) != index.Manifests[0].Size || !bytes.Contains(files[path], []byte(strings.TrimPrefix(m.Config, "blobs/sha256/"))) {
		t.Errorf("index.json leads to %s, which is %q", path, files[path])
	}
}

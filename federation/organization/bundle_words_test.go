package organization

import (
	"errors"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestWrongBundleIsNamed: a configuration or an empty file is no bundle, and the error says what is one, or what
// happened to the file.
func TestWrongBundleIsNamed(t *testing.T) {
	for text, want := range map[string]string{"": "the bundle is empty", " \n": "the bundle is empty", "# mlsfed.yaml\ndomain: a.example\n": "bundle.json", "-----BEGIN": "bundle.json",
		`{"version":1,"dom`: "the bundle is cut off", `{"version":1`: "the bundle is cut off", `{"version":1;}`: "the bundle is damaged at byte 13", `{"more":1}`: "bundle.json", "\ufeff": "the bundle is empty"} {
		if _, err := parseBundle([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestBundleWithAMarkOfByteOrder: an editor that writes one leaves the bundle readable.
func TestBundleWithAMarkOfByteOrder(t *testing.T) {
	if _, err := parseBundle([]byte("\ufeff{}")); !errors.Is(err, wire.Version) {
		t.Errorf("got %v, want the version to be missed", err)
	}
}

package federation

import (
	"strings"
	"testing"
)

// TestWrongBundleIsNamed: a configuration or an empty file is no bundle, and the error says what is one.
func TestWrongBundleIsNamed(t *testing.T) {
	for text, want := range map[string]string{"": "the bundle is empty", " \n": "the bundle is empty", "# mlsfed.yaml\ndomain: a.example\n": "bundle.json", "-----BEGIN": "bundle.json"} {
		if _, err := ParseBundle([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

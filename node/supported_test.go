package node

import (
	"strings"
	"testing"
)

// TestSupported checks on which systems a node runs, and the refusal on others.
func TestSupported(t *testing.T) {
	for _, system := range []string{"linux", "darwin"} {
		if err := supported(system); err != nil {
			t.Errorf("%s: %v", system, err)
		}
	}
	if err := supported("windows"); err == nil || !strings.Contains(err.Error(), "windows") {
		t.Errorf("windows: %v", err)
	}
}

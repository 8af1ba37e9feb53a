package wire

import (
	"strings"
	"testing"
)

// TestNameInOtherLettersIsReported checks that the error for a name in other letters says how to write it.
func TestNameInOtherLettersIsReported(t *testing.T) {
	if _, err := ParseDomain("münchen.example"); err == nil || !strings.Contains(err.Error(), "xn--") {
		t.Errorf("got %v", err)
	}
	if _, err := ParseDomain("xn--mnchen-3ya.example"); err != nil {
		t.Error(err)
	}
}

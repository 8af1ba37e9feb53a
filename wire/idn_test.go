package wire

import (
	"strings"
	"testing"
)

// TestNameInOtherLettersIsTold how it is written.
func TestNameInOtherLettersIsTold(t *testing.T) {
	if _, err := ParseDomain("münchen.example"); err == nil || !strings.Contains(err.Error(), "xn--") {
		t.Errorf("got %v", err)
	}
	if _, err := ParseDomain("xn--mnchen-3ya.example"); err != nil {
		t.Error(err)
	}
}

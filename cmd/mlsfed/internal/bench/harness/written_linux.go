package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
)

// BytesWritten returns how many bytes this process has passed to the operating system, 0 if that is not known.
func BytesWritten() (n int64) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "wchar: %d", &n); err == nil {
			return n
		}
	}
	return 0
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// WithJSON adds --json to a command with output for programs.
func WithJSON(c *cobra.Command) *cobra.Command {
	c.Flags().Bool("json", false, "print JSON, one object a line")
	return c
}

// PrintJSON writes an object for programs, in one line.
func PrintJSON(out io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a link must be copied as it is
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := out.Write(escapeJSON(b.Bytes()))
	return err
}

// PrintList writes objects for programs, each in one line, and nothing for an empty list.
func PrintList[T any](out io.Writer, list []T) error {
	for _, v := range list {
		if err := PrintJSON(out, v); err != nil {
			return err
		}
	}
	return nil
}

// escapeJSON writes the characters of a JSON text that control a terminal as escapes, which every reader of JSON takes
// for the same characters. JSON escapes those below U+0020 itself.
func escapeJSON(b []byte) []byte {
	if !bytes.ContainsFunc(b, escaped) {
		return b
	}
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case !escaped(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16Pair(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

func utf16Pair(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}

func escaped(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == 0x2028 || r == 0x2029)
}

// DeviceJSON is a device as its organization knows it.
type DeviceJSON struct {
	Device   string    `json:"device"`
	Enrolled time.Time `json:"enrolled"`
	Ends     time.Time `json:"certificate_ends"`
}

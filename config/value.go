package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration as people write it: "90s", "10m", "720h", and "30d" for days.
type Duration time.Duration

// Std returns d as a duration of the standard library.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// UnmarshalYAML reads it.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return scalar(n, d.parse) }

// MarshalYAML writes what UnmarshalYAML reads.
func (d Duration) MarshalYAML() (any, error) { return d.Std().String(), nil }

func (d *Duration) parse(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n > 36500 {
			return fmt.Errorf("%q is not a duration: wanted one as \"90s\", \"10m\", \"30d\"", s)
		}
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration: wanted one as \"90s\", \"10m\", \"30d\"", s)
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes as people write it: 4096, "64KiB", "1MiB", "1GiB".
type Size uint64

var units = []struct {
	name string
	size uint64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// UnmarshalYAML reads it.
func (s *Size) UnmarshalYAML(n *yaml.Node) error { return scalar(n, s.parse) }

// MarshalYAML writes what UnmarshalYAML reads.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// String returns the size in its largest whole unit.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && uint64(s)%u.size == 0 && u.size > 1 {
			return strconv.FormatUint(uint64(s)/u.size, 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(s), 10)
}

// About returns the size in its largest unit with one decimal, for people: "5.0 GiB".
func (s Size) About() string {
	for _, u := range units {
		if u.size > 1 && uint64(s) >= u.size {
			return fmt.Sprintf("%.1f %s", float64(s)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d B", uint64(s))
}

func (s *Size) parse(text string) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
		if err != nil || n > 1<<62/u.size {
			break
		}
		*s = Size(n * u.size)
		return nil
	}
	return fmt.Errorf("%q is not a size: wanted one as 4096, \"64KiB\", \"1MiB\"", text)
}

// scalar calls parse with a plain value and adds the line to its error.
func scalar(n *yaml.Node, parse func(string) error) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: wanted one value", n.Line)
	}
	if err := parse(n.Value); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

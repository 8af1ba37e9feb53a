package client

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// eventTable is the table of docs/use/embedding.md: for each type, the fields that are always set, and those that may
// be set.
var eventTable = sync.OnceValues(func() (map[EventType][2][]string, error) {
	raw, err := os.ReadFile("../docs/use/embedding.md")
	if err != nil {
		return nil, err
	}
	byName := make(map[string]EventType)
	for t := EventType(1); t.String() != "unknown"; t++ {
		byName[eventConstant(t)] = t
	}
	table := make(map[EventType][2][]string)
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name := strings.Trim(strings.TrimSpace(cells[0]), "`")
		t, ok := byName[name]
		if !ok || len(cells) < 3 {
			continue
		}
		var fields [2][]string
		for _, f := range strings.Split(cells[1], ",") {
			f = strings.Trim(strings.TrimSpace(f), "`")
			if always, sometimes := strings.CutSuffix(f, "?"); sometimes {
				fields[1] = append(fields[1], strings.Trim(always, "`"))
			} else if f != "" {
				fields[0] = append(fields[0], f)
			}
		}
		table[t] = fields
	}
	return table, nil
})

// eventConstant returns the name of a type's constant.
func eventConstant(t EventType) string {
	if t == EventAgain {
		return "EventAgain"
	}
	var b strings.Builder
	b.WriteString("Event")
	for _, word := range strings.Fields(t.String()) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

// checkFields fails the test if an event has other fields than the document says. Every test of the package that runs
// a device calls it.
func checkFields(t testing.TB, e Event) {
	t.Helper()
	table, err := eventTable()
	if err != nil {
		t.Errorf("the table of events: %v", err)
		return
	}
	fields, ok := table[e.Type]
	if !ok {
		t.Errorf("docs/use/embedding.md has no row for %s", eventConstant(e.Type))
		return
	}
	v := reflect.ValueOf(e)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Type" || name == "Time" {
			if v.Field(i).IsZero() {
				t.Errorf("%s without its %s", eventConstant(e.Type), name)
			}
			continue
		}
		set := !v.Field(i).IsZero()
		if slices.Contains(fields[1], name) || set == slices.Contains(fields[0], name) {
			continue
		}
		t.Errorf("%s: %s is set: %v; docs/use/embedding.md says otherwise: %+v", eventConstant(e.Type), name, set, e)
	}
}

// TestEveryEventIsDocumented checks that each type has a row that contains only names of fields.
func TestEveryEventIsDocumented(t *testing.T) {
	table, err := eventTable()
	if err != nil {
		t.Fatal(err)
	}
	fields := reflect.TypeFor[Event]()
	for typ := EventType(1); typ.String() != "unknown"; typ++ {
		row, ok := table[typ]
		if !ok {
			t.Errorf("no row for %s", eventConstant(typ))
		}
		for _, name := range append(row[0], row[1]...) {
			if _, ok := fields.FieldByName(name); !ok {
				t.Errorf("%s: Event has no field %q", eventConstant(typ), name)
			}
		}
	}
}

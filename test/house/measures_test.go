package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMeasures measures a small tree in which each figure has a different value.
func TestMeasures(t *testing.T) {
	var files []source
	for name, body := range map[string]string{
		"wire/wire.go": `package wire

type Method string

const (
	MethodGet Method = "get"
	MethodPut Method = "put"
	Other     Method = "other"
)

type GetRequest struct{ a int }
`,
		"node/get.go": `package node

import "github.com/mlsfed/mlsfed/wire"

var _ = wire.MethodGet
`,
		"node/answer.go": `package node

import "github.com/mlsfed/mlsfed/wire"

func get(r wire.GetRequest) {
	_ = r
}
`,
		"client/client.go": `package client

import (
	"github.com/mlsfed/mlsfed/config"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/node"
	named "github.com/mlsfed/mlsfed/wire"
)

type Client struct {
	Get  func(r named.GetRequest)
	Mode mlscore.Mode
	c    config.Config
}

func (c *Client) Do() { node.Get() }

func private(config.Config) {}
`,
		"cmd/mlsfed/demo.go": `package main

import "github.com/mlsfed/mlsfed/test/cluster"

var _ = cluster.New
`,
		"cmd/mlsfed/demo_test.go": "package main\n",
		"test/cluster/cluster.go": "package cluster\n\nimport _ \"github.com/mlsfed/mlsfed/test/deep\"\n\nfunc New() {}\n",
		"examples/bot/main.go":    "package main\n\nimport _ \"github.com/mlsfed/mlsfed/client\"\nimport _ \"github.com/mlsfed/mlsfed/examples/device\"\n",
	} {
		files = append(files, source{name: name, body: []byte(body)})
	}
	rows, err := measures(files)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, row := range rows {
		got[row.name] = row.value
	}
	for name, want := range map[string]string{
		"lines of a function: p50, p90, p99":                                          "1, 3, 3",
		"lines of the longest function":                                               "3",
		"functions outside tests":                                                     "4",
		"Go files in cmd/mlsfed itself; with tests":                                   "1; 2",
		"packages below test/ that production code imports":                           "1: test/cluster",
		"packages of ours that the examples import":                                   "1: client",
		"packages of ours, other than client, in the exported declarations of client": "2: mlscore, wire",
		"files that name a request of a session, or its structures":                   "least 1, median 4, most 4",
		"files that name a proposal type of mlscore":                                  "0",
		"exported identifiers: wire":                                                  "5",
		"exported identifiers: client":                                                "2",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if _, ok := got["exported identifiers: test/cluster"]; ok {
		t.Error("a package below test/ is counted among the exported identifiers")
	}
}

func TestSetColumn(t *testing.T) {
	const page = "# Title\n\n| measure | before | after |\n| --- | --- | --- |\n| a | 1 | 2 |\n| exported identifiers: b | 3 | 4 |\n| exported identifiers: c | – | 1 |\n\nEnd.\n"
	got, err := setColumn(page, "after", []measured{{"a", "5"}, {"exported identifiers: a", "6"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "# Title\n\n| measure | before | after |\n| --- | --- | --- |\n| a | 1 | 5 |\n| exported identifiers: a | – | 6 |\n| exported identifiers: b | 3 | – |\n\nEnd.\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := setColumn(page, "later", nil); err == nil {
		t.Error("a column that does not exist was set")
	}
	if _, err := setColumn("# Title\n", "after", nil); err == nil {
		t.Error("a table that does not exist was changed")
	}
}

// TestMeasuresPage checks that the page has a row with two values for each measure that does not depend on the packages
// of the tree.
func TestMeasuresPage(t *testing.T) {
	rows, err := measures(nil)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, measuresPath))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		line := "| " + row.name + " | "
		if !slices.ContainsFunc(strings.Split(string(page), "\n"), func(l string) bool {
			return strings.HasPrefix(l, line) && len(cells(l)) == 3 && cells(l)[1] != "" && cells(l)[2] != ""
		}) {
			t.Errorf("docs/decisions/measures.md has no row for %q: run go run ./test/house -measures", row.name)
		}
	}
}

package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeBill writes the bill of materials of a binary in CycloneDX: the modules that the go command has
// recorded in it, each with its version and checksum, and the standard library.
func writeBill(p *plan, b *bill) error {
	info, err := buildinfo.ReadFile(b.Binary)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(b.Binary)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	setting := make(map[string]string, len(info.Settings))
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	main := component(&debug.Module{Path: info.Main.Path, Version: p.Version})
	main.Type, main.Name = cdx.ComponentTypeApplication, "mlsfed"
	main.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	main.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}
	main.Properties = &[]cdx.Property{
		{Name: "go:platform", Value: setting["GOOS"] + "/" + setting["GOARCH"]},
		{Name: "go:package", Value: info.Path},
	}
	std := cdx.Component{
		BOMRef:     "pkg:golang/std@" + info.GoVersion,
		Type:       cdx.ComponentTypeLibrary,
		Name:       "std",
		Version:    info.GoVersion,
		PackageURL: "pkg:golang/std@" + info.GoVersion,
	}
	components, needs := []cdx.Component{std}, []string{std.BOMRef}
	for _, m := range info.Deps {
		c := component(m)
		components, needs = append(components, c), append(needs, c.BOMRef)
	}
	if len(info.Deps) == 0 {
		return fmt.Errorf("%s records no modules", b.Binary)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Timestamp: p.Date.UTC().Format(time.RFC3339), Component: &main}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &needs}}
	return create(b.Out, func(w io.Writer) error {
		return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	})
}

// component describes a module, or the module that replaces it.
func component(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	url := "pkg:golang/" + m.Path + "@" + m.Version
	c := cdx.Component{
		BOMRef:     url,
		Type:       cdx.ComponentTypeLibrary,
		Name:       m.Path,
		Version:    m.Version,
		PackageURL: url,
	}
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.Sum}} // as in go.sum
	}
	return c
}

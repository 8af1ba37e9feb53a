package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// dataFormat is the version of the format of a node's data folder. It grows with each change that an older release
// would misread. A release reads its own format and all earlier ones.
const dataFormat = 1

// formatFile is the file of the data folder that records its format. A folder without it was written
// before there were releases, and has format 1.
const formatFile = "format"

// format is the content of formatFile. A newer release may record more: unknown keys are ignored, so that this one
// can still report which release wrote the folder.
type format struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the build that started last
}

// readFormat returns what a data folder records, format 1 for a folder without a record.
func readFormat(data string) (format, error) {
	path := filepath.Join(data, formatFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return format{Format: 1}, nil
	}
	if err != nil {
		return format{}, fmt.Errorf("data folder: %w", err)
	}
	var f format
	if err := json.Unmarshal(b, &f); err != nil || f.Format < 1 {
		return format{}, fmt.Errorf("data folder: %s does not record a format: restore the file from a backup", path)
	}
	return f, nil
}

// checkFormat returns an error for a data folder that only a newer release can read. It changes nothing: the release
// that wrote the folder can continue to use it.
func checkFormat(data string) error {
	f, err := readFormat(data)
	if err != nil || f.Format <= dataFormat {
		return err
	}
	by := "a newer release"
	if f.Version != "" {
		by = "mlsfed " + f.Version
	}
	return fmt.Errorf("data folder %s has format %d, written by %s; this build reads formats up to %d: use that release or a newer one, or restore a backup that this build has made",
		data, f.Format, by, dataFormat)
}

// recordFormat writes the format and the version of this build, durably.
func recordFormat(data, version string) (err error) {
	old, err := readFormat(data)
	if err != nil {
		return err
	}
	record := format{Format: dataFormat, Version: version}
	path := filepath.Join(data, formatFile)
	if _, err := os.Stat(path); err == nil && old == record {
		return nil
	}
	b, err := json.Marshal(record)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("data folder: record the format: %w", err)
		}
	}()
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	dir, err := os.Open(data)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

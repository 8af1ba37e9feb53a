// Package vectors has the command vectors: the test vectors of the MLS working group, verified and made.
package vectors

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/mlscore/vectors"
)

// Command returns the command vectors.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:     "vectors",
		GroupID: cli.GroupDevelopers,
		Short:   "Verify and make MLS test vectors",
		Long: `MLS implementations test each other with files of test vectors, in the formats of the MLS working
group (github.com/mlswg/mls-implementations). The beginning of a file's name gives its format,
like crypto-basics or treekem. Groups recorded from other implementations are read too: passive-client,
peer-messages, peer-objects, refused-peer-messages and scripts.`,
	}
	c.AddCommand(newVerify(), newMake())
	return c
}

func newVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Verify all test vectors of a folder",
		Long: `Every case of every *.json file of the folder is verified. A line says for each file and cipher suite
how many cases passed and failed; the suite is - where a format names none. Of each suite's failures
the first three are quoted. It ends with 1 if a case failed or a file is not one of test vectors.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return verify(c.Context(), args[0], c.OutOrStdout())
		},
	}
}

// totals sums up a run of verify.
type totals struct{ files, unread, passed, failed int }

const rowFormat = "%-40s %6v %7v %7v\n"

func verify(ctx context.Context, dir string, out io.Writer) error {
	files, err := jsonFiles(dir)
	if err != nil {
		return fmt.Errorf("verify test vectors: %w", err)
	}
	fmt.Fprintf(out, rowFormat, "file", "suite", "passed", "failed")
	var sum totals
	for _, name := range files {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verify test vectors: %w", err)
		}
		sum.files++
		r, err := vectors.VerifyFile(os.DirFS(dir), name, nil)
		if err != nil {
			sum.unread++
			fmt.Fprintf(out, rowFormat+"  %v\n", name, "-", "-", "-", err)
			continue
		}
		sum.passed += r.Passed()
		sum.failed += r.Failed()
		printReport(out, &r)
	}
	fmt.Fprintf(out, "\n%d files, %d cases: %d passed, %d failed\n", sum.files, sum.passed+sum.failed, sum.passed, sum.failed)
	if sum.failed > 0 || sum.unread > 0 {
		return fmt.Errorf("verify test vectors: %d cases failed, %d files could not be read as test vectors", sum.failed, sum.unread)
	}
	return nil
}

// jsonFiles lists the test vectors of a folder. An empty folder is an error.
func jsonFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && filepath.Ext(e.Name()) == ".json" {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s holds no .json file", dir)
	}
	return names, nil
}

func printReport(out io.Writer, r *vectors.Report) {
	for _, t := range r.Suites {
		suite := "-"
		if t.Suite != 0 {
			suite = fmt.Sprint(uint16(t.Suite))
			if t.Suite >= 0xf000 { // for private use: these suites are known by their numbers
				suite = fmt.Sprintf("%#04x", uint16(t.Suite))
			}
		}
		fmt.Fprintf(out, rowFormat, r.File, suite, t.Passed, t.Failed)
		for _, c := range t.First {
			fmt.Fprintf(out, "  %v\n", c)
		}
		if more := t.Failed - len(t.First); more > 0 {
			fmt.Fprintf(out, "  and %d more\n", more)
		}
	}
}

func newMake() *cobra.Command {
	var seed []byte
	var suites []string
	c := &cobra.Command{
		Use:   "make DIR",
		Short: "Make test vectors of all kinds",
		Long: `The folder, which is made if it is not there, receives a file for each kind of test vectors. The same
seed gives the same files; without one a random seed is taken, and printed. No file that is there
already is touched.

The files hold private keys. They are for tests: use no key of a test vector for anything else.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := suitesOf(suites)
			if err != nil {
				return err
			}
			return writeVectors(args[0], seed, ids, c.OutOrStdout())
		},
	}
	c.Flags().BytesHexVar(&seed, "seed", nil, "seed, in hexadecimal digits (random by default)")
	c.Flags().StringSliceVar(&suites, "suites", nil, "MLS cipher suites, as 1,2 or 0xf001, or pq for all post-quantum ones (1 to 7 by default)")
	c.Flags().Lookup("suites").DefValue = ""
	return c
}

// suitesOf reads numbers and names of cipher suites.
func suitesOf(list []string) ([]mlscore.CipherSuite, error) {
	var ids []mlscore.CipherSuite
	for _, text := range list {
		if text == "pq" {
			ids = append(ids, mlscore.PostQuantumSuites()...)
			continue
		}
		id, err := mlscore.ParseCipherSuite(text)
		if err != nil {
			return nil, cli.UsageError(fmt.Errorf("make test vectors: %w", err))
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func writeVectors(dir string, seed []byte, suites []mlscore.CipherSuite, out io.Writer) error {
	if len(seed) == 0 {
		seed = make([]byte, 32)
		_, _ = rand.Read(seed) // ends the program if there is no randomness
	}
	files, err := vectors.Make(seed, suites)
	if err != nil {
		return fmt.Errorf("make test vectors: %w", err)
	}
	names := slices.Sorted(maps.Keys(files))
	if err := writeNew(dir, names, files); err != nil {
		return fmt.Errorf("make test vectors: %w", err)
	}
	fmt.Fprintf(out, "seed %s\n", hex.EncodeToString(seed))
	total := 0
	for _, name := range names {
		fmt.Fprintf(out, "%-40s %9d bytes\n", name, len(files[name]))
		total += len(files[name])
	}
	fmt.Fprintf(out, "\n%d files, %d bytes, in %s\n", len(names), total, dir)
	return nil
}

// writeNew writes files into a folder. None of them may exist.
func writeNew(dir string, names []string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return cmp.Or(err, fmt.Errorf("%s is in %s already: name another folder, or remove it", name, dir))
		}
	}
	for _, name := range names {
		if err := writeFile(filepath.Join(dir, name), files[name]); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file that must not exist.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

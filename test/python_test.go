package test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/federation/organization"
	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// TestPythonDeviceInAWholeFederation checks a device written in Python from docs/spec/protocol.md alone. It enrols at a
// node, uploads a KeyPackage, is added to a conversation by a device of another organization, reads the notice of
// that, the Welcome and a message, and claims a KeyPackage across organizations.
func TestPythonDeviceInAWholeFederation(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the client in another language is not run")
	}
	if out, err := exec.Command(python, "-c", "import cryptography").CombinedOutput(); err != nil {
		t.Skipf("Python's package cryptography is not installed (Debian: python3-cryptography): the client in another language is not run: %v: %.200s", err, out)
	}
	c := newCluster(t, "a.example", "b.example")
	ctx := t.Context()
	dir := t.TempDir()
	id, err := organization.LoadIdentity(c.Config("b.example").Identity)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	link, err := c.Invite(ctx, "b.example", "pia")
	if err != nil {
		t.Fatal(err)
	}
	const snake = wire.DeviceID("mimi://b.example/d/pia/snake")
	run := func(args ...string) []map[string]any {
		t.Helper()
		base := []string{"pyclient/client.py", "--server", "https://" + link.Host, "--root", root, "--device", string(snake), "--seed", filepath.Join(dir, "seed")}
		cmd := exec.CommandContext(ctx, python, append(base, args...)...)
		cmd.WaitDelay = time.Second
		var faults bytes.Buffer
		cmd.Stderr = &faults
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, faults.String())
		}
		var list []map[string]any
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			var v map[string]any
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				t.Fatalf("%v printed %q: %v", args, lines.Text(), err)
			}
			list = append(list, v)
		}
		return list
	}
	run("enrol", "--code", link.Code, "--chain", filepath.Join(dir, "chain"))
	kp := filepath.Join(dir, "keypackage")
	token := wire.Token(random16())
	if err := os.WriteFile(kp, keyPackageOf(t, filepath.Join(dir, "seed"), filepath.Join(dir, "chain"), token), 0o600); err != nil {
		t.Fatal(err)
	}
	run("upload", kp, "--token", hex.EncodeToString(token[:]))
	if counts := run("count"); len(counts) == 0 {
		t.Fatal("count printed nothing")
	}

	alice := device(t, c, "a.example", "alice", "phone")
	talk, err := alice.Create(ctx, client.CreateOptions{Name: "Snakes"})
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.Add(ctx, talk, "mimi://b.example/u/pia"); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.SendText(ctx, talk, "hiss"); err != nil {
		t.Fatal(err)
	}
	// Notices about few KeyPackages may come first; the test waits for the notice that the device was added.
	joined := false
	for range 3 {
		for _, item := range run("read", "--items", "1") {
			text, err := json.Marshal(item)
			if err != nil {
				t.Fatal(err)
			}
			joined = joined || bytes.Contains(text, []byte(talk.String()))
		}
		if joined {
			break
		}
	}
	if !joined {
		t.Fatal("the inbox does not name the conversation")
	}
	if items := run("read", "--items", "2", "--conversation", talk.String()); len(items) != 2 {
		t.Fatalf("read %d items of the conversation, wanted the entry with the Welcome and the message", len(items))
	}
	if claimed := run("claim", "mimi://a.example/u/alice", "--suite", "1"); len(claimed) == 0 {
		t.Fatal("nothing was claimed from the other organization")
	}
}

// keyPackageOf creates a KeyPackage with the key and certificates of the Python client: the only step that needs MLS.
func keyPackageOf(t *testing.T, seedFile, chainFolder string, token wire.Token) []byte {
	t.Helper()
	seed, err := os.ReadFile(seedFile)
	if err != nil {
		t.Fatal(err)
	}
	if seed, err = hex.DecodeString(strings.TrimSpace(string(seed))); err != nil || len(seed) != ed25519.SeedSize {
		t.Fatalf("seed of %d bytes (%v)", len(seed), err)
	}
	var chain [][]byte
	for _, name := range []string{"0.der", "1.der"} {
		der, err := os.ReadFile(filepath.Join(chainFolder, name))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, der)
	}
	mls, err := mlscore.NewClient(mlscore.Config{
		Auth: new(anyone), Store: mlscore.NewMemoryStore(), Now: time.Now, Credentials: []mlscore.CredentialType{mlscore.CredentialX509},
		Extensions: []mlscore.ExtensionType{0xf0a0, 0xf0a2}, // docs/spec/client.md: rules and address
	})
	if err != nil {
		t.Fatal(err)
	}
	kp, err := mls.NewKeyPackage(mlscore.Identity{
		CipherSuite: mlscore.MLS128X25519AES128Ed25519, Credential: mlscore.X509Credential(chain...), SignatureKey: mlscore.NewSecret(seed),
	}, mlscore.KeyPackageOptions{LeafExtensions: mlscore.Extensions{{Type: 0xf0a2, Data: token[:]}}})
	if err != nil {
		t.Fatal(err)
	}
	message, err := kp.Message()
	if err != nil {
		t.Fatal(err)
	}
	return message
}

type anyone struct{ mlscore.X509Authenticator }

func (*anyone) ValidateCredential(mlscore.Credential, []byte, mlscore.CredentialUse) error {
	return nil
}

package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/config"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

// The example holds every key, and each has its default.
func TestExampleConfigIsTheDefaults(t *testing.T) {
	s := newSettings()
	if err := config.Parse("example", []byte(exampleConfig()), s.sections); err != nil {
		t.Fatal(err)
	}
	if got, want := config.Values(s.sections), config.Values(newSettings().sections); !slices.Equal(got, want) {
		t.Errorf("the example says %v, want %v", got, want)
	}
	for _, field := range config.Values(s.sections) {
		_, key, _ := strings.Cut(field[0], ".")
		if !strings.Contains(exampleConfig(), "\n  "+key+": "+field[1]+"\n") {
			t.Errorf("the example lacks %s", field[0])
		}
	}
	code, stdout, _ := run(t, "config", "example")
	if code != cli.ExitOK || stdout != exampleConfig() {
		t.Errorf("grid config example: exit code %d, %q", code, stdout)
	}
	var doc struct {
		Schema string
		Rows   []fieldRow
	}
	_, stdout, _ = run(t, "config", "example", "--json")
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc.Schema != "instantgrid/config-example/1" || len(doc.Rows) != len(config.Values(s.sections)) {
		t.Errorf("grid config example --json: %v, %q", err, stdout)
	}
}

// docs/configuration.md has the tables of the code between two comments.
func TestConfigurationIsDocumented(t *testing.T) {
	const file, begin, end = "../../docs/configuration.md", "<!-- keys -->\n\n", "<!-- end of keys -->"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(b), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the keys", file)
	}
	want := head + begin + config.Tables(newSettings().sections) + end + tail
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(b) != want {
		t.Errorf("%s differs from the code (go test ./cmd/grid -run Documented -update rewrites it)", file)
	}
}

// Every key has a text that ends, a name that reads, and belongs to one section.
func TestKeys(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := make(map[string]bool)
	for _, s := range newSettings().sections {
		if !name.MatchString(s.Name) || s.Doc == "" || seen[s.Name] || len(s.Keys) == 0 {
			t.Errorf("section %q", s.Name)
		}
		seen[s.Name] = true
		for _, k := range s.Keys {
			field := s.Name + "." + k.Name
			if !name.MatchString(k.Name) || !strings.HasSuffix(k.Doc, ".") || seen[field] || (k.Flag == "") != (k.Usage == "") {
				t.Errorf("key %s: %q", field, k.Doc)
			}
			seen[field] = true
		}
	}
}

// Friendliness, section 1, line 15: file, line, column, field and nearest key.
func TestCheckNamesThePlace(t *testing.T) {
	server := "192.0.2.1:3478#" + peerID(1).String()
	for _, tt := range []struct {
		name, text, place, cause string
	}{
		{"wrong key", "node:\n  rendezvous: " + server + "\n  lisen_port: 4000\n", ":3:3", "node.lisen_port: there is no such key; did you mean node.listen_port?"},
		{"wrong section", "nodes:\n  listen_port: 4000\n", ":1:1", "nodes: there is no such section; did you mean node?"},
		{"key without its section", "listen_port: 4000\n", ":1:1", "listen_port: there is no such section; did you mean node.listen_port?"},
		{"wrong kind", "node:\n  listen_port: many\n", ":2:16", "node.listen_port: this is not a number from 0 to 65535"},
		{"wrong word", "log:\n  level: inof\n", ":2:3", `log.level: "inof" is none of debug, info, warn, error; did you mean info?`},
		{"given twice", "log:\n  level: info\n  level: warn\n", ":3:3", "level"},
		{"no mapping", "- log\n", ":1:1", "this is not a mapping of keys to values"},
		{"broken YAML", "log: [\n", ":1:6", ""},
		{"out of range", "receive:\n  at_once: 0\n", ":2:3", "receive.at_once: 0 is not from 1 to 1000"},
		{"no peer ID", "node:\n  allow: [alice]\n", ":2:3", `node.allow: "alice" is not a peer ID`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "grid.yaml")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "state")
			code, stdout, stderr := run(t, "up", "--check", "--config", file, "--dir", dir, "--rendezvous", server)
			if code != cli.ExitUsage || stdout != "" || !strings.HasPrefix(stderr, "grid: "+file+tt.place+": ") || !strings.Contains(stderr, tt.cause) {
				t.Errorf("exit code %d; %q, want %s and %q", code, stderr, tt.place, tt.cause)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Error("--check has made the state directory")
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, configFile), []byte("node:\n  rendezvous: "+server+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := run(t, "up", "--check", "--dir", dir)
	if code != cli.ExitOK || !strings.HasPrefix(stdout, "ok: "+filepath.Join(dir, configFile)) {
		t.Errorf("a good configuration: exit code %d, %q, %q", code, stdout, stderr)
	}
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules:\n  - name: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr = run(t, "up", "--check", "--dir", dir); code == cli.ExitOK || !strings.Contains(stderr, "policy.yaml:2:5: ") {
		t.Errorf("a bad policy: exit code %d, %q", code, stderr)
	}
}

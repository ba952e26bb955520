package instantgrid_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/instantgrid/instantgrid"

// mayImport lists, for each folder, the folders its non-test code may import
// (docs/architecture.md). A folder's sub-packages belong to it. cmd, absent
// here, may import all; a folder that is neither here nor cmd is unknown to
// the architecture and fails the test.
var mayImport = map[string][]string{
	".":          nil,
	"punch":      nil,
	"ri2n":       nil,
	"routing":    nil,
	"netsim":     nil,
	"rendezvous": {"ri2n"},
	"overlay":    {"punch", "ri2n", "routing", "rendezvous"},
	"gridapi":    {"overlay"},
	"examples":   {"gridapi", "overlay", "ri2n", "rendezvous"},
}

// serverOnly are the parts of rendezvous that cmd and rendezvous itself may
// import, so that nobody who embeds overlay carries a store.
var serverOnly = []string{"rendezvous/server", "rendezvous/ledger", "rendezvous/state"}

// An importLine is one import of one of our packages by another.
type importLine struct {
	file     string // slash-separated, relative to the root
	imported string // package folder, relative to the root
	test     bool
}

// folder returns the first element of a package folder: the row of mayImport.
func folder(pkg string) string {
	top, _, _ := strings.Cut(pkg, "/")
	return top
}

// violation says what is wrong with l, or nothing.
func violation(l importLine) string {
	dir := path.Dir(l.file)
	from, to := folder(dir), folder(l.imported)
	if from == "cmd" {
		return ""
	}
	allowed, known := mayImport[from]
	if !known {
		return "folder " + from + " is not in the import table"
	}
	if from == to {
		return ""
	}
	// Tests may also use a simulated network, and a server to talk to.
	if l.test && to == "netsim" {
		return ""
	}
	if !slices.Contains(allowed, to) {
		return from + " may not import " + to
	}
	for _, s := range serverOnly {
		if !l.test && (l.imported == s || strings.HasPrefix(l.imported, s+"/")) {
			return s + " is for cmd only"
		}
	}
	return ""
}

// ourImports parses every Go file of the module, whatever its build tags.
func ourImports(t *testing.T) (lines []importLine, files int) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != "." && (base == "testdata" || base == "bin" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			p := strings.Trim(spec.Path.Value, "`\"")
			if p != module && !strings.HasPrefix(p, module+"/") {
				continue
			}
			rel := strings.TrimPrefix(strings.TrimPrefix(p, module), "/")
			if rel == "" {
				rel = "."
			}
			lines = append(lines, importLine{filepath.ToSlash(name), rel, strings.HasSuffix(name, "_test.go")})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, files
}

func TestImportTable(t *testing.T) {
	lines, files := ourImports(t)
	if files == 0 {
		t.Fatal("no Go file found: the test looks in the wrong place")
	}
	for _, l := range lines {
		if v := violation(l); v != "" {
			t.Errorf("%s imports %s: %s", l.file, l.imported, v)
		}
	}
	// Folders without imports of ours must be known as well.
	dirs, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range dirs {
		top := folder(filepath.ToSlash(name))
		if _, known := mayImport[top]; !known && top != "cmd" {
			t.Errorf("%s: folder %s is not in the import table", name, top)
		}
	}
}

func TestViolation(t *testing.T) {
	for _, tt := range []struct {
		name string
		line importLine
		bad  bool
	}{
		{"down", importLine{"overlay/node.go", "ri2n", false}, false},
		{"own sub-package", importLine{"punch/agent.go", "punch/internal/mux", false}, false},
		{"up", importLine{"ri2n/session.go", "overlay", false}, true},
		{"sideways", importLine{"punch/agent.go", "ri2n", false}, true},
		{"sideways in a test", importLine{"punch/agent_test.go", "ri2n", true}, true},
		{"simulator", importLine{"punch/agent.go", "netsim", false}, true},
		{"simulator in a test", importLine{"punch/agent_test.go", "netsim", true}, false},
		{"client", importLine{"overlay/node.go", "rendezvous", false}, false},
		{"server", importLine{"overlay/node.go", "rendezvous/server", false}, true},
		{"server in a test", importLine{"overlay/node_test.go", "rendezvous/server", true}, false},
		{"server's store", importLine{"rendezvous/server/server.go", "rendezvous/state", false}, false},
		{"cmd", importLine{"cmd/rendezvous/main.go", "rendezvous/server", false}, false},
		{"library imports cmd", importLine{"overlay/node.go", "cmd/internal/cli", false}, true},
		{"unknown folder", importLine{"util/x.go", "ri2n", false}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := violation(tt.line); (got != "") != tt.bad {
				t.Errorf("violation(%+v) = %q, want bad = %v", tt.line, got, tt.bad)
			}
		})
	}
}

// TestOverlayIsLight holds the promise to those who embed overlay: no store,
// no command line, on any platform (friendliness: the Go API).
func TestOverlayIsLight(t *testing.T) {
	if m, _ := filepath.Glob("overlay/*.go"); len(m) == 0 {
		t.Skip("there is no overlay package yet")
	}
	for _, platform := range []string{"linux", "windows", "darwin"} {
		cmd := exec.Command("go", "list", "-deps", "./overlay")
		cmd.Env = append(os.Environ(), "GOOS="+platform, "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list -deps ./overlay on %s: %v", platform, err)
		}
		for pkg := range strings.FieldsSeq(string(out)) {
			for _, heavy := range []string{"go.etcd.io/", "github.com/spf13/cobra", "github.com/vbauerster/mpb", "github.com/prometheus/", module + "/netsim", module + "/rendezvous/server"} {
				if strings.HasPrefix(pkg, heavy) {
					t.Errorf("on %s, ./overlay depends on %s", platform, pkg)
				}
			}
		}
	}
}

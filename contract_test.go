package instantgrid_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sources parses every Go file of ours, tests apart, and calls f with each.
func sources(t *testing.T, tests bool, f func(dir string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") != tests {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		f(path.Dir(filepath.ToSlash(name)), file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// explainedElsewhere are error types without a next command of their own: what a
// user sees of them is worded by the layer above.
var explainedElsewhere = map[string]string{
	"cli.Error":       "has the three as fields",
	"config.KeyError": "config.Error is around it, with file and line",
}

// Friendliness, section 1, line 8: every error type that can reach a user names
// object, cause and next command. Those of ri2n, punch, routing and netsim are
// for the layer above, which has a walk of its own (overlay, TestErrorsExplainThemselves).
func TestErrorTypesExplainThemselves(t *testing.T) {
	methods := make(map[string][]string) // by folder and type
	sources(t, false, func(dir string, file *ast.File) {
		if slices.Contains([]string{"ri2n", "punch", "routing", "netsim"}, folder(dir)) {
			return
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || len(f.Recv.List) != 1 {
				continue
			}
			of := f.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if name, ok := of.(*ast.Ident); ok && name.IsExported() {
				key := dir + "." + name.Name
				methods[key] = append(methods[key], f.Name.Name)
			}
		}
	})
	words, err := os.ReadFile("cmd/grid/explain.go")
	if err != nil {
		t.Fatal(err)
	}
	walked := 0
	for key, has := range methods {
		if !slices.Contains(has, "Error") {
			continue
		}
		walked++
		short := path.Base(key)
		if explainedElsewhere[short] != "" || strings.HasPrefix(short, "transfer.") && strings.Contains(string(words), "*"+short) {
			continue
		}
		for _, part := range []string{"Object", "Cause", "Next"} {
			if !slices.Contains(has, part) {
				t.Errorf("%s has no %s: what is it about, why, and what is to be done?", key, part)
			}
		}
	}
	if walked < 20 {
		t.Errorf("only %d error types found", walked)
	}
}

// notForEmbedding are packages that only programs of ours build on.
var notForEmbedding = []string{
	".", "rendezvous/ledger", "rendezvous/membership", "rendezvous/relay", "rendezvous/server", "rendezvous/state",
	"routing/fifo", "routing/object", "routing/shortcut", "routing/sim", "routing/swim",
}

// Line 25: each package of the Go API has an Example, and in it a function that
// takes a context takes it first.
func TestPackagesHaveExamples(t *testing.T) {
	packages, shown := make(map[string]bool), make(map[string]bool)
	ours := func(dir string) bool {
		return !strings.Contains(dir+"/", "/internal/") && folder(dir) != "cmd" && folder(dir) != "examples" && !slices.Contains(notForEmbedding, dir)
	}
	sources(t, false, func(dir string, file *ast.File) {
		if !ours(dir) {
			return
		}
		packages[dir] = true
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() {
				continue
			}
			for i, p := range f.Type.Params.List {
				if s, ok := p.Type.(*ast.SelectorExpr); ok && i > 0 && s.Sel.Name == "Context" {
					t.Errorf("%s: %s takes its context behind other parameters", dir, f.Name.Name)
				}
			}
		}
	})
	sources(t, true, func(dir string, file *ast.File) {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Example") {
				shown[dir] = true
			}
		}
	})
	for dir := range packages {
		if !shown[dir] {
			t.Errorf("package %s has no Example", dir)
		}
	}
	if len(packages) < 10 {
		t.Errorf("only %d packages found", len(packages))
	}
}

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logFields returns the fields of what the agent's code logs, each with the
// levels at which it occurs.
func logFields(t *testing.T) map[string][]string {
	t.Helper()
	fields := make(map[string][]string)
	note := func(name, level string) {
		if !slices.Contains(fields[name], level) {
			fields[name] = append(fields[name], level)
		}
	}
	literal := func(e ast.Expr) string {
		if b, ok := e.(*ast.BasicLit); ok && b.Kind == token.STRING {
			if s, err := strconv.Unquote(b.Value); err == nil {
				return s
			}
		}
		return ""
	}
	visit := func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		first := 1 // behind the message
		switch method.Sel.Name {
		case "Debug", "Info", "Warn", "Error":
			if len(call.Args) == 0 || literal(call.Args[0]) == "" {
				return true
			}
		case "With":
			first = 0
		default:
			return true
		}
		receiver := ""
		switch x := method.X.(type) {
		case *ast.Ident:
			receiver = x.Name
		case *ast.SelectorExpr:
			receiver = x.Sel.Name
		}
		if !strings.Contains(strings.ToLower(receiver), "log") {
			return true
		}
		for i := first; i < len(call.Args); i += 2 {
			if name := literal(call.Args[i]); name != "" {
				note(name, method.Sel.Name)
			}
		}
		return true
	}
	for _, folder := range []string{"cmd/grid", "gridapi/rpc", "overlay", "punch", "rendezvous", "ri2n"} {
		err := filepath.WalkDir(filepath.Join("../..", folder), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(filepath.ToSlash(path), "rendezvous/server") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err == nil {
				ast.Inspect(f, visit)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return fields
}

// docs/logs.md lists every field that the agent logs, and no other.
func TestLogFieldsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|").FindAllStringSubmatch(string(b), -1) {
		listed = append(listed, m[1])
	}
	fields := logFields(t)
	if len(fields) < 15 {
		t.Fatalf("only %d fields found in the code", len(fields))
	}
	for name := range fields {
		if !slices.Contains(listed, name) {
			t.Errorf("docs/logs.md lacks %s: add a row for it", name)
		}
		for _, secret := range []string{"token", "key", "secret", "seed", "claim"} {
			if strings.Contains(name, secret) {
				t.Errorf("a field is called %s", name)
			}
		}
	}
	for _, name := range listed {
		if fields[name] == nil && !slices.Contains([]string{"time", "level", "msg"}, name) {
			t.Errorf("docs/logs.md lists %s, which nothing logs", name)
		}
	}
}

// docs/control-protocol.md lists every request that the agent answers.
func TestControlProtocolIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/control-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(/(?:v[0-9]+/[a-z/-]+|control))"`).FindAllStringSubmatch(string(source), -1) {
			found++
			if !regexp.MustCompile("(GET|POST) " + regexp.QuoteMeta(m[1]) + "[`?]").Match(b) {
				t.Errorf("docs/control-protocol.md lacks %s of %s", m[1], file)
			}
		}
	}
	if found < 8 {
		t.Errorf("%d paths found", found)
	}
}

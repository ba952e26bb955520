// Package python holds a client for the calls of a grid in Python; this test
// sees that it compiles, and that it is as short as it claims to be. A test of
// cmd/grid runs it.
package python

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestClient(t *testing.T) {
	b, err := os.ReadFile("grid.py")
	if err != nil {
		t.Fatal(err)
	}
	class, _, _ := strings.Cut(string(b), "if __name__")
	_, class, _ = strings.Cut(class, "class Grid:")
	lines := 0
	for line := range strings.Lines(class) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	if lines > 30 {
		t.Errorf("the client has %d lines", lines)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(python, "-c", "import ast, sys; ast.parse(open('grid.py').read())").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
)

func TestUnit(t *testing.T) {
	golden(t, filepath.Join("service", "default.service"), renderUnit("/usr/bin/grid", []string{"up"}))
	golden(t, filepath.Join("service", "options.service"), renderUnit("/opt/my tools/grid", []string{"up", "--dir", "/srv/grid 100%", "--config", "/etc/$grid.yaml"}))
	code, stdout, _ := run(t, "service", "unit", "--dir", "state")
	here, err := filepath.Abs("state")
	if err != nil {
		t.Fatal(err)
	}
	if code != cli.ExitOK || !strings.Contains(stdout, " --dir "+here+"\n") {
		t.Errorf("grid service unit: exit code %d, %q", code, stdout)
	}
}

// systemd itself finds nothing to say about the unit.
func TestUnitIsValid(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), serviceName+".service")
	text := renderUnit(self, []string{"up", "--dir", "/srv/with blank"})
	text = strings.Replace(text, "Documentation=man:grid-up(1)\n", "", 1) // the page is not installed here
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), serviceName+".service") {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
}

func TestServiceStatus(t *testing.T) {
	code, stdout, stderr := run(t, "service", "status", "--json")
	if code != cli.ExitOK {
		// Without a service manager that says so.
		if !strings.Contains(stderr, "service "+serviceName+": ") {
			t.Errorf("exit code %d, %q", code, stderr)
		}
		return
	}
	var doc struct{ Schema, Name, Manager, State, Next string }
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc.Schema != "instantgrid/service-manager/1" || doc.State == "" || doc.Next == "" {
		t.Errorf("%q: %v", stdout, err)
	}
}

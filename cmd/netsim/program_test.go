package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// TestPrograms runs this program inside a host. It needs root and namespaces.
func TestPrograms(t *testing.T) {
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	sc, err := netsim.NamedScenario("symmetric-pair")
	if err != nil {
		t.Fatal(err)
	}
	network, err := kernel.Start(sc)
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(ctx context.Context, args ...string) *program {
		p, err := startProgram(ctx, network, "a", self, args...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.stop)
		return p
	}

	// The document is somebody else's; what matters is that it is one.
	p := start(t.Context(), "version", "--json")
	if _, err := first[gridDocument](p); err != nil {
		t.Error(err)
	}
	if _, err := last(p, func(gridDocument) { t.Error("a second document") }); err != nil {
		t.Error(err)
	}

	// One that fails says why.
	p = start(t.Context(), "run", "nothing")
	_, err = first[gridDocument](p)
	if err == nil || !strings.Contains(err.Error(), "neither a file nor a built-in scenario") || !strings.Contains(err.Error(), "run on host a") {
		t.Errorf("error of a program that failed: %v", err)
	}

	// One that is interrupted says just that.
	ctx, cancel := context.WithCancel(t.Context())
	p = start(ctx, "run", "symmetric-pair", "--backend", "sim")
	cancel()
	if _, err := last(p, func(gridDocument) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("error after an interrupt: %v", err)
	}
}

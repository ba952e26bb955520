package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
)

func TestControl(t *testing.T) {
	dir := t.TempDir()
	if _, err := findAgent(dir); err != errNoAgent {
		t.Fatalf("agent of an empty directory: %v", err)
	}
	node, err := overlay.Start(t.Context(), overlay.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	// What a killed agent has left is no obstacle.
	if err := os.WriteFile(filepath.Join(dir, socketFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := findAgent(dir); err != errNoAgent {
		t.Fatalf("agent behind a left-over socket: %v", err)
	}
	s := newControl(node)
	if err := s.serve(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, socketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	agent, err := findAgent(dir)
	if err != nil {
		t.Fatal(err)
	}
	status, err := agent.status(t.Context())
	if err != nil || status.PeerID != node.PeerID() || len(status.Links) != 1 {
		t.Errorf("status %+v, %v", status, err)
	}
	// Errors arrive as they are.
	_, _, err = agent.ping(t.Context(), peerID(3))
	var e *cli.Error
	if !errors.As(err, &e) || e.Object != "peer "+peerID(3).String() || e.Next == "" {
		t.Errorf("ping without a rendezvous: %v", err)
	}
	if list := (&options{dir: dir}).livePeers(t.Context()); len(list) != 0 {
		t.Errorf("peers %v", list)
	}
	s.Close()
	if _, err := findAgent(dir); err != errNoAgent {
		t.Errorf("agent after Close: %v", err)
	}
}

func TestLongSocketPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	var e *cli.Error
	if err := newControl(nil).serve(t.Context(), dir); !errors.As(err, &e) || e.Code != cli.ExitUsage {
		t.Errorf("serve in a long path: %v", err)
	}
}

func TestIdentityIsTakenOnce(t *testing.T) {
	dir := t.TempDir()
	release, err := takeIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeIdentity(dir); !errors.Is(err, filelock.ErrTaken) {
		t.Errorf("second taking: %v", err)
	}
	release()
	release, err = takeIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

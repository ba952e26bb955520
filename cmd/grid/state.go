package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	rendezvousVariable = "GRID_RENDEZVOUS"
	rendezvousFile     = "rendezvous" // in the state directory; overlay reads it too
	lockFile           = "lock"
	socketFile         = "control.sock"
)

// stateDir returns the state directory, which it makes if it is not there.
func (o *options) stateDir() (string, error) {
	dir, err := o.stateDirName()
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// stateDirName returns where the state directory is, or would be.
func (o *options) stateDirName() (string, error) {
	dir := o.dir
	if dir == "" {
		var err error
		if dir, err = defaultDir(); err != nil {
			return "", err
		}
	}
	return filepath.Abs(dir)
}

func defaultDir() (string, error) {
	if d := os.Getenv("STATE_DIRECTORY"); filepath.IsAbs(d) { // systemd's StateDirectory
		return d, nil
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "instantgrid"), nil
	}
	if runtime.GOOS == "windows" {
		if d, err := os.UserCacheDir(); err == nil { // %LocalAppData%
			return filepath.Join(d, "instantgrid"), nil
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", &cli.Error{Object: "state directory", Cause: "this user has no home directory", Next: "name one: --dir DIRECTORY", Err: err}
	}
	return filepath.Join(home, ".local", "state", "instantgrid"), nil
}

// findRendezvous returns the configured rendezvous: the flag, then the
// environment, then the file in dir. The zero address means that there is none.
func (o *options) findRendezvous(dir string) (rendezvous.Address, error) {
	text := o.rendezvous
	if text == "" {
		text = os.Getenv(rendezvousVariable)
	}
	if text == "" {
		b, err := os.ReadFile(filepath.Join(dir, rendezvousFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return rendezvous.Address{}, err
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				text = line
				break
			}
		}
	}
	if text == "" {
		return rendezvous.Address{}, nil
	}
	return rendezvous.ParseAddress(text)
}

// needRendezvous is findRendezvous for commands that cannot do without.
func (o *options) needRendezvous(dir, command string) (rendezvous.Address, error) {
	a, err := o.findRendezvous(dir)
	if err == nil && a.IsZero() {
		err = noRendezvous(dir, command)
	}
	return a, err
}

// takeIdentity makes this process the one that uses the directory's identity:
// a rendezvous knows one session for each. The error is filelock.ErrTaken when
// another process has it.
func takeIdentity(dir string) (release func(), err error) {
	f, err := filelock.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// identityTaken explains filelock.ErrTaken.
func identityTaken(dir, next string) *cli.Error {
	return &cli.Error{
		Object: dir,
		Cause:  "another grid command uses the identity in this directory",
		Next:   next,
		Err:    filelock.ErrTaken,
	}
}

// registerTimeout is how long a command waits for its rendezvous.
const registerTimeout = 10 * time.Second

// startNode starts a node and waits until its rendezvous knows it. A member of a
// grid goes on without one that cannot be reached.
func startNode(ctx context.Context, cfg overlay.Config) (*overlay.Node, error) {
	// A node of seconds would come into the key space and leave again.
	cfg.Routing.Off = true
	node, err := overlay.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	if err := node.Ready(waiting); err != nil {
		if ctx.Err() == nil && node.Status().Grid != nil && codeOf(err) == cli.ExitUnreachable {
			return node, nil // members reach each other without it
		}
		node.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return node, nil
}

// parsePeers decodes peer IDs from the command line.
func parsePeers(texts []string, flag string) ([]ri2n.PeerID, error) {
	var list []ri2n.PeerID
	for _, s := range texts {
		p, err := ri2n.ParsePeerID(s)
		if err != nil {
			return nil, cli.Usagef(strings.TrimSpace(flag+" "+s), "ask for what grid id prints on that computer", "this is not a peer ID of 52 letters and digits")
		}
		list = append(list, p)
	}
	return list, nil
}

// readAllowFile reads peer IDs, one to a line; # begins a comment.
func readAllowFile(path string) ([]ri2n.PeerID, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []ri2n.PeerID
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		p, err := ri2n.ParsePeerID(line)
		if err != nil {
			return nil, cli.Usagef(fileLine(path, number), "write one peer ID on each line, as grid id prints it", "%q is not a peer ID", line)
		}
		list = append(list, p)
	}
	return list, nil
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/filelock"
	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Below the state directory, transfers holds a directory for each one that is
// under way: a note, and the identity that it uses if that is not this
// computer's.
const (
	transfersDir = "transfers"
	noteFile     = "note.json"
	noteLifetime = 14 * 24 * time.Hour // without change, after which it is swept
)

// transferDir returns the directory of the transfer that key stands for, and
// sweeps those that were given up long ago.
func transferDir(dir, kind, key string) (string, error) {
	sum := sha256.Sum256([]byte(kind + "\x00" + key))
	all := filepath.Join(dir, transfersDir)
	own := filepath.Join(all, kind+"-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(own, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(all)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		path := filepath.Join(all, e.Name())
		if info, err := e.Info(); err == nil && path != own && time.Since(info.ModTime()) > noteLifetime {
			// Sweeping is a courtesy to the disk.
			_ = os.RemoveAll(path)
		}
	}
	now := time.Now()
	_ = os.Chtimes(own, now, now)
	return own, nil
}

// A sendNote remembers the token of a file that is being offered, so that an
// interrupted grid send goes on with it.
type sendNote struct {
	dir string

	Schema string `json:"schema"` // instantgrid/send-note/1
	Path   string `json:"path"`
	Token  string `json:"token"` // empty: none yet
}

// openNote returns the note for the file at path as it is now; a file that was
// changed since is another one.
func openNote(dir, path string, o transfer.Offer) (*sendNote, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	own, err := transferDir(dir, "send", fmt.Sprintf("%s\x00%d\x00%d", absolute, o.Size, o.ModTime.Unix()))
	if err != nil {
		return nil, err
	}
	n := new(sendNote)
	b, err := os.ReadFile(filepath.Join(own, noteFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// A note that cannot be read is none: a new token is made.
	if json.Unmarshal(b, n) != nil || n.Schema != "instantgrid/send-note/1" {
		n = new(sendNote)
	}
	n.dir, n.Path, n.Schema = own, absolute, "instantgrid/send-note/1"
	return n, nil
}

func (n *sendNote) save() error { return writeNote(n.dir, n) }

// remove forgets the transfer.
func (n *sendNote) remove() {
	// What is left is swept later.
	_ = os.RemoveAll(n.dir)
}

// writeNote replaces the note in dir. It holds secrets.
func writeNote(dir string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".note-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, noteFile))
}

// A borrowed identity is the one that a transfer runs under: this computer's,
// or one of its own when another grid command uses that.
type borrowed struct {
	dir     string
	own     bool
	release func()
}

// takeIdentity decides under which identity the file is offered, the same for
// every run.
func (n *sendNote) takeIdentity(main string) (borrowed, error) {
	own := filepath.Join(n.dir, "node")
	_, err := os.Stat(own)
	if errors.Is(err, fs.ErrNotExist) {
		release, err := takeIdentity(main)
		if err == nil {
			return borrowed{main, false, release}, nil
		}
		if !errors.Is(err, filelock.ErrTaken) || n.Token != "" && !n.expired() {
			return borrowed{}, takenOr(err, main, "wait for it or stop it: this file's token belongs to that identity; or make another: grid send --new FILE")
		}
	}
	if err := os.MkdirAll(own, 0o700); err != nil {
		return borrowed{}, err
	}
	release, err := takeIdentity(own)
	if err != nil {
		return borrowed{}, takenOr(err, n.Path, "it is being sent already; stop that grid send first")
	}
	return borrowed{own, true, release}, nil
}

// expired reports whether the token can be forgotten.
func (n *sendNote) expired() bool {
	t, err := rendezvous.ParseToken(n.Token)
	return err != nil || t.Check(time.Now()) != nil
}

// explain tells a user whose rendezvous serves members only why it does not
// know this one.
func (b borrowed) explain(err error) error {
	if b.own && errors.Is(err, rendezvous.ErrNotAdmitted) {
		return &cli.Error{
			Object: "rendezvous",
			Cause:  "it serves members only, and this computer's own identity is in use by another grid command",
			Next:   "stop the other command (grid up, or another grid send), and run this one again",
			Code:   cli.ExitRefused,
			Err:    err,
		}
	}
	return err
}

// takenOr explains filelock.ErrTaken and leaves other errors.
func takenOr(err error, dir, next string) error {
	if errors.Is(err, filelock.ErrTaken) {
		return identityTaken(dir, next)
	}
	return err
}

// A recvNote remembers what a token has brought, for a sender that does not
// know yet.
type recvNote struct {
	dir string

	Schema string      `json:"schema"` // instantgrid/recv-note/1
	Path   string      `json:"path"`
	Name   string      `json:"name"`
	Size   int64       `json:"size"`
	Sum    string      `json:"sha256"`
	From   ri2n.PeerID `json:"from"`
}

// openRecvNote returns the note for a token.
func openRecvNote(dir, token string) (*recvNote, error) {
	own, err := transferDir(dir, "recv", token)
	if err != nil {
		return nil, err
	}
	n := new(recvNote)
	b, err := os.ReadFile(filepath.Join(own, noteFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if json.Unmarshal(b, n) != nil || n.Schema != "instantgrid/recv-note/1" {
		n = new(recvNote)
	}
	n.dir = own
	return n, nil
}

// finished returns the earlier result if its file is still there, else nil.
func (n *recvNote) finished() *transfer.Result {
	info, err := os.Stat(n.Path)
	if n.Path == "" || err != nil || info.Size() != n.Size {
		return nil
	}
	r := &transfer.Result{Name: n.Name, Path: n.Path, Size: n.Size}
	if b, err := hex.DecodeString(n.Sum); err != nil || copy(r.Sum[:], b) != len(r.Sum) {
		return nil
	}
	return r
}

// done stores a result.
func (n *recvNote) done(r transfer.Result, from ri2n.PeerID) error {
	path, err := filepath.Abs(r.Path)
	if err != nil {
		return err
	}
	n.Schema, n.Path, n.Name, n.Size, n.Sum, n.From = "instantgrid/recv-note/1", path, r.Name, r.Size, r.Sum.String(), from
	return writeNote(n.dir, n)
}

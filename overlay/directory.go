package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A directory is where a node keeps its state. The empty one keeps nothing.
type directory string

// Names below a node's directory.
const (
	fileKey         = "key"
	fileAllow       = "allow"
	fileRendezvous  = "rendezvous"
	fileAddresses   = "addresses"
	folderTokens    = "invitations"
	fileGrid        = "grid"        // the grid's signed description
	fileMembership  = "membership"  // our proof
	fileRevocations = "revocations" // the newest list
	fileMembers     = "members"     // proofs of others
	fileGridKey     = "grid.key"    // with the admin only
	filePolicy      = "policy.yaml" // who may connect to which port
	temporary       = ".new-"       // what replace writes, before it has a name
	maxStateFile    = 1 << 20       // bytes; a larger file is not ours
	directoryMode   = 0o700
	stateFileMode   = 0o600
	othersMayAccess = 0o077
)

func (d directory) path(name string) string { return filepath.Join(string(d), name) }

// open makes the directory. One that others may write to is refused.
func (d directory) open() error {
	if d == "" {
		return nil
	}
	if err := os.MkdirAll(string(d), directoryMode); err != nil {
		return &StateError{File: string(d), Err: err}
	}
	info, err := os.Stat(string(d))
	if err != nil {
		return &StateError{File: string(d), Err: err}
	}
	return d.closed(info)
}

// closed refuses a directory that others may write to.
func (d directory) closed(info fs.FileInfo) error {
	if info.Mode().Perm()&0o022 != 0 {
		return &StateError{File: string(d), Err: errOpenToOthers}
	}
	return nil
}

// orphanAge is how old a temporary file is that nobody will move any more.
const orphanAge = time.Minute

// sweep removes the temporary files of writers that were killed.
func (d directory) sweep(now time.Time) {
	if d == "" {
		return
	}
	for _, folder := range []string{"", folderTokens} {
		entries, _ := os.ReadDir(d.path(folder))
		for _, e := range entries {
			if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), temporary) && now.Sub(info.ModTime()) > orphanAge {
				_ = os.Remove(filepath.Join(d.path(folder), e.Name())) // the next start tries again
			}
		}
	}
}

// read returns the content of a file, nil if there is none.
func (d directory) read(name string) ([]byte, error) {
	if d == "" {
		return nil, nil
	}
	path := d.path(name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, &StateError{File: path, Err: err}
	case !info.Mode().IsRegular():
		return nil, &StateError{File: path, Err: errNotFile}
	case info.Size() > maxStateFile:
		return nil, &StateError{File: path, Err: fmt.Errorf("it has %d bytes, more than any file of ours", info.Size())}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, &StateError{File: path, Err: err}
	}
	return b, nil
}

// write replaces a file: after a crash either the old or the new content is
// there, as a whole.
func (d directory) write(name string, content []byte) error {
	if d == "" {
		return nil
	}
	return d.replace(name, content, os.Rename)
}

// create makes a file unless there is one already, which is fs.ErrExist.
func (d directory) create(name string, content []byte) error {
	return d.replace(name, content, func(from, to string) error {
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	})
}

// replace writes a temporary file and moves it to its place.
func (d directory) replace(name string, content []byte, move func(from, to string) error) error {
	path := d.path(name)
	fail := func(err error) error { return &StateError{File: path, Err: err} }
	if err := os.MkdirAll(filepath.Dir(path), directoryMode); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), temporary+"*") // mode 0600
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = move(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fail(err)
	}
	// The name is durable once its folder is.
	if folder, err := os.Open(filepath.Dir(path)); err == nil {
		err = folder.Sync()
		folder.Close()
		if err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
			return fail(err)
		}
	}
	return nil
}

// remove deletes a file, which may be gone already.
func (d directory) remove(name string) error {
	if d == "" {
		return nil
	}
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &StateError{File: d.path(name), Err: err}
	}
	return nil
}

// lines calls f for each line of a file that is neither empty nor a comment.
// An error of f is returned with file and line.
func (d directory) lines(name string, f func(line string) error) error {
	b, err := d.read(name)
	if err != nil {
		return err
	}
	for i, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, " #") // HOST:PORT#PEERID has one without a blank
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := f(line); err != nil {
			return &StateError{File: d.path(name), Line: i + 1, Err: err}
		}
	}
	return nil
}

var (
	errOpenToOthers = errors.New("other users may read or write it")
	errNotFile      = errors.New("this is no file")
	errNotDirectory = errors.New("this is no directory")
	errDamaged      = errors.New("it is damaged")
	errNotKey       = errors.New("this is not a key file")
	errOtherKey     = errors.New("it is damaged: its key is not that of the peer ID in it")
)

// A StateError is a file of the node's directory that cannot be used.
type StateError struct {
	File string
	Line int // from 1; zero: the file as a whole
	Err  error

	// Harmless: a node starts without the file, which is written again.
	Harmless bool
}

func (e *StateError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *StateError) Unwrap() error { return e.Err }

// Object names the file, and the line.
func (e *StateError) Object() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return e.File
}

// Cause says what is wrong with it.
func (e *StateError) Cause() string {
	var p *fs.PathError
	if errors.As(e.Err, &p) {
		return p.Op + ": " + p.Err.Error()
	}
	return e.Err.Error()
}

// Next says what to do.
func (e *StateError) Next() string {
	switch {
	case e.Harmless:
		return "nothing: the agent does without it, and writes it again"
	case errors.Is(e.Err, errNotFile), errors.Is(e.Err, errNotDirectory):
		return "move it away: mv " + e.File + " " + e.File + ".old"
	case errors.Is(e.Err, errNotGrid), errors.Is(e.Err, errNotMembership):
		return "restore it from a copy, or move it away and join again: grid join TOKEN"
	case errors.Is(e.Err, errNotRevocations):
		return "move it away: the rendezvous and the other members have it too"
	case errors.Is(e.Err, errNotInvitation):
		return "delete it, and make a new token: grid send FILE"
	case errors.Is(e.Err, errOpenToOthers):
		return "close it to others: chmod go-rwx " + e.File
	case errors.Is(e.Err, errNotKey), errors.Is(e.Err, errOtherKey):
		return "restore it from a copy, or move it away: a new key, with another peer ID, is then made"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as the owner of the file, or choose another directory"
	case e.Line > 0:
		return "correct or delete that line"
	}
	return "check the disk (df) and the directory's owner (ls -ld), or choose another directory"
}

// identity returns the key in the directory, which it makes if there is none.
func (d directory) identity(fresh func() (*ri2n.Identity, error)) (*ri2n.Identity, error) {
	for range 2 {
		id, err := d.readIdentity()
		if id != nil || err != nil {
			return id, err
		}
		if id, err = fresh(); err != nil {
			return nil, err
		}
		if d == "" {
			return id, nil
		}
		err = d.create(fileKey, appendKeyFile(nil, id))
		if err == nil {
			return id, nil
		}
		// Another process was faster: its key is ours.
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return nil, &StateError{File: d.path(fileKey), Err: errNotKey}
}

// private refuses a file that others may read.
func (d directory) private(name string) error {
	path := d.path(name)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&othersMayAccess != 0 {
		return &StateError{File: path, Err: errOpenToOthers}
	}
	return nil
}

func (d directory) readIdentity() (*ri2n.Identity, error) {
	b, err := d.read(fileKey)
	if b == nil || err != nil {
		return nil, err
	}
	path := d.path(fileKey)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&othersMayAccess != 0 {
		return nil, &StateError{File: path, Err: errOpenToOthers}
	}
	id, err := parseKeyFile(b)
	if err != nil {
		return nil, &StateError{File: path, Err: err}
	}
	return id, nil
}

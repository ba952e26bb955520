package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// KindFile is the kind of changes that replace a file. Every journal knows it.
const KindFile = "file"

// maxFile bounds the files that may be replaced, in bytes.
const maxFile = 1 << 20

// freshSuffix ends the name of what is to become the file.
const freshSuffix = ".grid-new"

// fileChange is what undoing the replacement of a file needs.
type fileChange struct {
	Path   string      `json:"path"`
	Absent bool        `json:"absent,omitempty"` // before
	Link   string      `json:"link,omitempty"`   // what it pointed to, if it was a symbolic link
	Mode   fs.FileMode `json:"mode,omitempty"`
	Before []byte      `json:"before,omitempty"`
	After  []byte      `json:"after"`
}

// ReplaceFile replaces the file at path, which may be a symbolic link or not be
// there, by one with this content. Undoing it brings back what was there,
// unless somebody else has written to the file since.
func (j *Journal) ReplaceFile(path string, content []byte) (*Change, error) {
	data, replace, err := Replacement(path, content)
	if err != nil {
		return nil, err
	}
	return j.Make(KindFile, data, replace)
}

// Replacement returns what Make wants for a change of KindFile: ReplaceFile is
// both. Between the two calls nobody else should change the file.
func Replacement(path string, content []byte) (data any, replace func() error, err error) {
	if len(content) > maxFile {
		return nil, nil, fmt.Errorf("journal: replace %s: %d bytes, at most %d", path, len(content), maxFile)
	}
	c := fileChange{Path: path, After: content}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Absent = true
	case err != nil:
		return nil, nil, err
	case info.Mode().Type() == fs.ModeSymlink:
		if c.Link, err = os.Readlink(path); err != nil {
			return nil, nil, err
		}
	case info.Mode().IsRegular():
		c.Mode = info.Mode().Perm()
		if c.Before, err = readFile(path, maxFile); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, fmt.Errorf("journal: %s is no file", path)
	}
	mode := c.Mode
	if mode == 0 {
		mode = 0o644
	}
	return c, func() error { return putFile(path, content, mode) }, nil
}

// putFile gives path this content at once or, where another file system is
// mounted on it, in place.
func putFile(path string, content []byte, mode fs.FileMode) error {
	fresh := path + freshSuffix
	err := writeFile(fresh, content, mode)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
	}
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return writeFile(path, content, mode)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes a rename in dir outlive a power cut.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such call
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func undoFile(data json.RawMessage, log *slog.Logger) error {
	var c fileChange
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	if err := os.Remove(c.Path + freshSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ours, err := c.isOurs()
	if err != nil {
		return err
	}
	if !ours {
		return nil
	}
	switch {
	case c.Absent:
		return os.Remove(c.Path)
	case c.Link != "":
		fresh := c.Path + freshSuffix
		if err := os.Symlink(c.Link, fresh); err != nil {
			return err
		}
		if err := os.Rename(fresh, c.Path); err != nil {
			os.Remove(fresh)
			return err
		}
		return syncDir(filepath.Dir(c.Path))
	}
	log.Debug("file restored", "path", c.Path)
	return putFile(c.Path, c.Before, c.Mode)
}

// isOurs reports whether the file is as ReplaceFile or an undoing that was cut
// short has left it.
func (c *fileChange) isOurs() (bool, error) {
	info, err := os.Lstat(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, nil
	}
	now, err := readFile(c.Path, maxFile)
	if err != nil {
		return false, nil // larger than what we wrote
	}
	if bytes.Equal(now, c.After) {
		return true, nil
	}
	wasFile := !c.Absent && c.Link == ""
	if wasFile && bytes.Equal(now, c.Before) {
		return false, nil
	}
	// Written in place, and cut short.
	return wasFile && (bytes.HasPrefix(c.After, now) || bytes.HasPrefix(c.Before, now)), nil
}

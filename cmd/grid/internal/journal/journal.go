// Package journal keeps a file of the changes that a process makes to the
// computer it runs on, so that whatever ends the process, the changes can be
// taken back.
//
// Every change is written down, and is on the disk, before it is made. It is
// undone by Undo or Revert, or, after a crash, by whoever opens the journal
// next: the next start of the agent, or grid down. Undoing happens in the
// reverse order and must be able to happen twice, or for a change that was
// written down and never made, or made in part.
//
//	j, err := journal.Open(filepath.Join(dir, journal.FileName), kinds, log)
//	err = j.Undo()                                   // what a crash has left
//	c, err := j.ReplaceFile("/etc/resolv.conf", text)
//	d, err := j.Make("route", route, func() error { return add(route) })
//	err = j.Close()                                  // undoes both
//
// One process at a time may have a journal open; the caller sees to that. The
// methods may be called concurrently. A change of the kernel's, which a reboot
// undoes, is forgotten after one.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// FileName is the journal's usual name in a state directory.
const FileName = "changes"

const (
	schema     = "instantgrid/changes/1"
	maxJournal = 16 << 20 // bytes read of a file
	maxLines   = 256      // before a file is written anew without what is done
)

// A Kind says how changes of one kind are undone.
type Kind struct {
	// Undo takes a change back. It returns nil where there is nothing to take
	// back, and where somebody else has changed the same thing since.
	Undo func(data json.RawMessage) error

	// UntilReboot tells that a reboot undoes the change.
	UntilReboot bool
}

// A Change is one entry of a journal that has not been undone.
type Change struct {
	Kind string
	Data json.RawMessage
	id   uint64
	boot string
}

// String names the change: its kind, and what its data call name, prefix or
// path.
func (c *Change) String() string {
	var known struct{ Name, Prefix, Path string }
	_ = json.Unmarshal(c.Data, &known) // other data have no name
	text := c.Kind
	for _, word := range []string{known.Name, known.Prefix, known.Path} {
		if word != "" {
			text += " " + word
		}
	}
	return text
}

// line is the encoding of an entry, or of the end of one.
type line struct {
	Schema string          `json:"schema,omitempty"`
	ID     uint64          `json:"id,omitempty"`
	Kind   string          `json:"kind,omitempty"`
	Boot   string          `json:"boot,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	Done   uint64          `json:"done,omitempty"`
}

// A Journal is the file of one process's changes.
type Journal struct {
	path  string
	kinds map[string]Kind
	log   *slog.Logger
	boot  string

	mu      sync.Mutex // guards what follows
	file    *os.File   // nil: closed
	pending []*Change  // in the order made
	next    uint64
	lines   int
}

// Open opens the journal at path, 0600, made if it is not there. What an
// earlier process left is pending then; call Undo before making changes. Kinds
// names every kind of change that may be in it, besides those of ReplaceFile. A
// last line that is cut short was never acted on and is dropped; any other
// line that makes no sense is an [*Error]. Log may be nil.
func Open(path string, kinds map[string]Kind, log *slog.Logger) (*Journal, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	j := &Journal{path: path, kinds: map[string]Kind{}, log: log, boot: bootID(), next: 1}
	for name, k := range kinds {
		j.kinds[name] = k
	}
	j.kinds[KindFile] = Kind{Undo: func(data json.RawMessage) error { return undoFile(data, log) }}
	b, err := readFile(path, maxJournal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{What: path, Err: err}
	}
	if err := j.parse(b); err != nil {
		return nil, &Error{What: path, Err: err}
	}
	if err := j.rewrite(); err != nil {
		return nil, &Error{What: path, Err: err}
	}
	return j, nil
}

func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return b, err
}

// parse reads the lines of a journal.
func (j *Journal) parse(b []byte) error {
	for n := 1; len(b) > 0; n++ {
		text, rest, whole := bytes.Cut(b, []byte("\n"))
		if !whole {
			return nil // its change was not made
		}
		b = rest
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return fmt.Errorf("line %d makes no sense: %w", n, err)
		}
		switch {
		case l.Done > 0:
			j.pending = slices.DeleteFunc(j.pending, func(c *Change) bool { return c.id == l.Done })
		case l.Schema != schema || l.ID < j.next || l.Kind == "":
			return fmt.Errorf("line %d is none of %s", n, schema)
		default:
			j.next = l.ID + 1
			j.pending = append(j.pending, &Change{l.Kind, l.Data, l.ID, l.Boot})
		}
	}
	return nil
}

// rewrite replaces the file by one with what is pending. The mutex is held, or
// nobody else knows j.
func (j *Journal) rewrite() error {
	fresh := j.path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for _, c := range j.pending {
		w.Write(c.encode())
	}
	if err = w.Flush(); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(fresh, j.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		f.Close()
		os.Remove(fresh)
		return err
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.lines = f, len(j.pending)
	return nil
}

func (c *Change) encode() []byte {
	b, err := json.Marshal(line{Schema: schema, ID: c.id, Kind: c.Kind, Boot: c.boot, Data: c.Data})
	if err != nil {
		panic("journal: a change that was encoded before has no encoding: " + err.Error())
	}
	return append(b, '\n')
}

// Pending returns the changes that are not undone, in the order made.
func (j *Journal) Pending() []*Change {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.pending)
}

// Make writes a change down and makes it. Data is what the kind's Undo needs.
// When the change fails it is undone, as it may have been made in part, and the
// error is that of make.
func (j *Journal) Make(kind string, data any, make func() error) (*Change, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k, known := j.kinds[kind]
	if !known {
		return nil, fmt.Errorf("journal: no kind %q was named when the journal was opened", kind)
	}
	if j.file == nil {
		return nil, fs.ErrClosed
	}
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("journal: encode a change of kind %s: %w", kind, err)
	}
	c := &Change{Kind: kind, Data: b, id: j.next}
	if k.UntilReboot {
		c.boot = j.boot
	}
	if err := j.append(c); err != nil {
		return nil, &Error{What: j.path, Err: err}
	}
	if err := make(); err != nil {
		if undo := j.revert(c); undo != nil {
			err = errors.Join(err, undo)
		}
		return nil, err
	}
	return c, nil
}

// append writes c to the disk. The mutex is held.
func (j *Journal) append(c *Change) error {
	j.pending = append(j.pending, c)
	j.next++
	var err error
	if j.lines >= maxLines {
		err = j.rewrite()
	} else {
		if _, err = j.file.Write(c.encode()); err == nil {
			err = j.file.Sync()
		}
		j.lines++
	}
	if err != nil {
		j.pending = j.pending[:len(j.pending)-1]
		// A line cut short must not be followed by another.
		return errors.Join(err, j.rewrite())
	}
	return nil
}

// Revert undoes one change.
func (j *Journal) Revert(c *Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Contains(j.pending, c) {
		return nil
	}
	return j.revert(c)
}

func (j *Journal) revert(c *Change) error {
	k, known := j.kinds[c.Kind]
	switch {
	case !known:
		return &Error{What: c.String(), Err: errors.New("this version does not know how to undo it")}
	case k.UntilReboot && c.boot != j.boot:
	default:
		if err := k.Undo(c.Data); err != nil {
			return &Error{What: c.String(), Err: err}
		}
	}
	j.pending = slices.DeleteFunc(j.pending, func(x *Change) bool { return x == c })
	if j.file == nil {
		return nil
	}
	// Undoing twice is harmless, so this need not be on the disk.
	b, err := json.Marshal(line{Done: c.id})
	if err == nil {
		_, err = j.file.Write(append(b, '\n'))
	}
	if j.lines++; err == nil && len(j.pending) == 0 && j.lines > maxLines {
		err = j.rewrite()
	}
	if err != nil {
		return &Error{What: j.path, Err: err}
	}
	return nil
}

// Undo undoes everything that is pending, the newest first. What cannot be
// undone stays pending, and the rest is undone all the same; each failure is an
// [*Error] in the joined result.
func (j *Journal) Undo() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var failed []error
	for i := len(j.pending) - 1; i >= 0; i-- {
		if err := j.revert(j.pending[i]); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// Close undoes everything that is pending and closes the file. It may be
// called twice.
func (j *Journal) Close() error {
	err := j.Undo()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return err
	}
	if len(j.pending) == 0 {
		if again := j.rewrite(); again != nil {
			err = errors.Join(err, &Error{What: j.path, Err: again})
		}
	}
	j.file.Close()
	j.file = nil
	return err
}

// An Error is a change that cannot be undone or written down.
type Error struct {
	What string
	Err  error
}

func (e *Error) Error() string { return "journal: " + e.Object() + ": " + e.Cause() }
func (e *Error) Unwrap() error { return e.Err }

// Object names the change or the file.
func (e *Error) Object() string { return e.What }

// Cause says why.
func (e *Error) Cause() string { return e.Err.Error() }

// Next says what to do.
func (e *Error) Next() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return "undo it as the user who made it, mostly root: grid down"
	}
	return "undo it by hand, then remove it from the file " + FileName + " in the state directory"
}

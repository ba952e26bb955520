package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Source is a file that is being sent. One transfer at a time may use it.
type Source struct {
	file  *os.File
	path  string
	info  fs.FileInfo
	offer Offer
}

// Open opens the file at path to be sent under name; an empty name is the
// file's own. Only regular files can be sent.
func Open(path, name string) (*Source, error) {
	if name == "" {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		name = filepath.Base(absolute)
	}
	// Before opening: a FIFO would block.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &ObstacleError{Path: path, Problem: "it is " + kindOf(info.Mode()) + "; only a regular file can be sent"}
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Source{
		file: f,
		path: path,
		info: info,
		offer: Offer{
			Name:    name,
			Size:    info.Size(),
			Mode:    info.Mode().Perm() & modeMask,
			ModTime: time.Unix(info.ModTime().Unix(), 0),
		},
	}, nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "not a regular file"
}

// Offer returns what the file is.
func (s *Source) Offer() Offer { return s.offer }

// Close closes the file.
func (s *Source) Close() error { return s.file.Close() }

// check returns a ChangedError if the file is no longer what was offered.
func (s *Source) check() error {
	info, err := s.file.Stat()
	if err != nil {
		return &fileError{err: err}
	}
	if info.Size() != s.info.Size() {
		return &ChangedError{s.path, fmt.Sprintf("it had %d bytes and now has %d", s.info.Size(), info.Size())}
	}
	if !info.ModTime().Equal(s.info.ModTime()) {
		return &ChangedError{s.path, "it was written to at " + info.ModTime().Format(time.DateTime)}
	}
	return nil
}

// read fills b from offset.
func (s *Source) read(b []byte, offset int64) error {
	if _, err := s.file.ReadAt(b, offset); err == io.EOF {
		if err := s.check(); err != nil {
			return err
		}
		return &ChangedError{s.path, "it ended early"}
	} else if err != nil {
		return &fileError{err: err}
	}
	return nil
}

// common returns the longest beginning in h that the file has too, and the
// hash at its end.
func (s *Source) common(ctx context.Context, h have) (start int64, state hash.Hash, err error) {
	state = sha256.New()
	running := sha256.New()
	var at int64
	for _, b := range h {
		if b.length > s.offer.Size {
			break
		}
		if err := hashRange(ctx, running, io.NewSectionReader(s.file, at, b.length-at)); err != nil {
			return 0, nil, err
		}
		at = b.length
		if Sum(running.Sum(nil)) != b.sum {
			break
		}
		start = at
		if state, err = cloneHash(running); err != nil {
			return 0, nil, err
		}
	}
	return start, state, nil
}

// hashRange feeds all of r to h.
func hashRange(ctx context.Context, h hash.Hash, r *io.SectionReader) error {
	buf := make([]byte, 256<<10)
	left := r.Size()
	for left > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		left -= int64(n)
		if err != nil && left > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &fileError{err: err}
		}
	}
	return nil
}

func cloneHash(h hash.Hash) (hash.Hash, error) {
	c, ok := h.(hash.Cloner)
	if !ok {
		return nil, errors.New("transfer: this SHA-256 cannot be copied")
	}
	clone, err := c.Clone()
	if err != nil {
		return nil, fmt.Errorf("transfer: copy hash: %w", err)
	}
	return clone, nil
}

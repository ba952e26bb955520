package rpc

import (
	"bytes"
	"io"
	"os"
)

// spoolMemory is how much of a result is held in memory, in bytes.
const spoolMemory = 1 << 20

// A spool holds a result until it is complete: in memory while it is small, in
// a file without a name otherwise.
type spool struct {
	dir  string
	buf  bytes.Buffer
	file *os.File
	size int64
	err  error // stays
}

func newSpool(dir string) *spool { return &spool{dir: dir} }

func (s *spool) Write(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.file == nil && s.buf.Len()+len(b) > spoolMemory {
		if s.file, s.err = os.CreateTemp(s.dir, "rpc-result-"); s.err != nil {
			return 0, s.err
		}
		os.Remove(s.file.Name()) // where that fails, Close does it
		if _, s.err = s.file.Write(s.buf.Bytes()); s.err != nil {
			return 0, s.err
		}
		s.buf = bytes.Buffer{}
	}
	if s.file == nil {
		s.buf.Write(b)
	} else if _, s.err = s.file.Write(b); s.err != nil {
		return 0, s.err
	}
	s.size += int64(len(b))
	return len(b), nil
}

// bytes returns the whole.
func (s *spool) bytes() ([]byte, error) {
	if s.file == nil {
		return s.buf.Bytes(), nil
	}
	b := make([]byte, s.size)
	_, err := s.file.ReadAt(b, 0)
	return b, err
}

// copyTo writes the whole to w.
func (s *spool) copyTo(w io.Writer) error {
	if s.file == nil {
		_, err := w.Write(s.buf.Bytes())
		return err
	}
	_, err := io.Copy(w, io.NewSectionReader(s.file, 0, s.size))
	return err
}

func (s *spool) Close() error {
	if s == nil || s.file == nil {
		return nil
	}
	os.Remove(s.file.Name())
	return s.file.Close()
}

// Package filelock lets one process at a time own a file. The lock ends with
// the process, however that ends, and is no obstacle to readers.
package filelock

import (
	"errors"
	"os"
)

// ErrTaken reports that another process, or another open file of this one, has
// the lock.
var ErrTaken = errors.New("filelock: taken")

// Open opens the lock file at path, which it makes if it is not there, and
// takes it. Closing the file lets go of it.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if !Take(f) {
		f.Close()
		return nil, ErrTaken
	}
	return f, nil
}

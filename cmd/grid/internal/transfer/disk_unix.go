//go:build linux || darwin

package transfer

import (
	"errors"

	"golang.org/x/sys/unix"
)

// isFull reports whether err says that there is no room.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// freeSpace returns the bytes that dir's disk has for this user, or -1.
func freeSpace(dir string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil || s.Blocks == 0 {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize)
}

package filelock

import (
	"os"

	"golang.org/x/sys/windows"
)

// Take takes the lock of an open file until it is closed, and reports whether
// it was free.
func Take(f *os.File) bool {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	// The lock lies beyond the data, which stays readable.
	at := &windows.Overlapped{OffsetHigh: 1 << 30}
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, at) == nil
}

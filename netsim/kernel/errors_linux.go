package kernel

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// notPermitted wraps err so that callers can tell a system that refuses from
// a failure.
func notPermitted(what string, err error) error {
	for _, refusal := range []error{
		unix.EPERM, unix.EACCES, unix.EROFS, unix.ENOENT, unix.ENODEV, unix.ENXIO,
		unix.ENOSYS, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, fs.ErrPermission,
	} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("kernel: %s: %w: %w", what, err, ErrNotPermitted)
		}
	}
	return fmt.Errorf("kernel: %s: %w", what, err)
}

package overlay

import (
	"context"
	"errors"
	"syscall"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A numbered error is also the number that a program written for TCP asks for.
type numbered struct {
	Explained
	number syscall.Errno
}

func (e *numbered) Unwrap() []error { return []error{e.Explained, e.number} }

// Timeout makes it a [net.Error] as the inner error is one.
func (e *numbered) Timeout() bool { return e.number == syscall.ETIMEDOUT || isTimeout(e.Explained) }

// Temporary is part of [net.Error].
func (e *numbered) Temporary() bool { return false }

// withNumber adds to an error of a dial what errors.Is finds as a
// [syscall.Errno]: ECONNREFUSED, ECONNRESET, EHOSTUNREACH or ETIMEDOUT.
func withNumber(err error) error {
	var e Explained
	if !errors.As(err, &e) {
		return err
	}
	if number := numberOf(err); number != 0 {
		return &numbered{e, number}
	}
	return err
}

func numberOf(err error) syscall.Errno {
	var (
		peer        *PeerError
		noWay       *NoWayError
		name        *NameError
		indirect    *NotDirectError
		refused     *rendezvous.RefusedError
		unreachable *rendezvous.UnreachableError
		member      *membership.Error
		port        *PortError
		remote      *ri2n.RemoteError
	)
	switch {
	case errors.Is(err, context.Canceled), errors.As(err, &port):
		return 0 // it is no failure, or has its number
	case errors.As(err, &peer) && peer.refused(), errors.As(err, &member):
		return syscall.ECONNREFUSED
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ri2n.ErrHandshakeTimeout), errors.Is(err, ri2n.ErrIdleTimeout):
		return syscall.ETIMEDOUT
	case errors.As(err, &remote), errors.Is(err, ri2n.ErrStatelessReset):
		return syscall.ECONNRESET
	case errors.As(err, &peer), errors.As(err, &noWay), errors.As(err, &name), errors.As(err, &indirect),
		errors.As(err, &refused), errors.As(err, &unreachable):
		return syscall.EHOSTUNREACH
	}
	return 0
}

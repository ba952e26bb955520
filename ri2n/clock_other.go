//go:build !linux

package ri2n

// newKernelClock returns nil: this system has no timers that can be waited for
// together with sockets.
func newKernelClock() clock { return nil }

//go:build !linux

package ri2n

import "net"

// newKernelSocket returns a socket without offloads, which this system's
// kernel does not have or which we do not use yet.
func newKernelSocket(u *net.UDPConn) socket {
	// A failure leaves the system's default size.
	u.SetReadBuffer(7 << 20)
	u.SetWriteBuffer(7 << 20)
	return addrPortSocket{u}
}

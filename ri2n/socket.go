package ri2n

import (
	"net"
	"net/netip"
)

// A socket sends and receives datagrams in batches.
type socket interface {
	// receive calls r.datagram for every datagram that arrives, and r.finish
	// once for each batch of them, until reading fails. One goroutine calls
	// it. The buffers belong to the socket and are used again after finish.
	receive(r *receiver) error

	// write sends burst as datagrams of size bytes, the last maybe shorter.
	// Only where whole is set may the kernel get the burst in one piece and
	// cut it up.
	write(burst []byte, size int, to netip.AddrPort, whole bool) error

	localAddr() net.Addr
	close() error

	// kernel reports whether the socket is a descriptor of the system, whose
	// readiness the netpoller waits for.
	kernel() bool
}

// newSocket returns the fastest socket that pc allows.
func newSocket(pc net.PacketConn) socket {
	switch u := pc.(type) {
	case *net.UDPConn:
		return newKernelSocket(u)
	case addrPortConn:
		return addrPortSocket{u}
	}
	return packetSocket{pc}
}

// addrPortConn is what *net.UDPConn and simulated sockets offer beyond
// net.PacketConn: reads and writes that allocate no address.
type addrPortConn interface {
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

type addrPortSocket struct{ addrPortConn }

func (s addrPortSocket) receive(r *receiver) error {
	buf := make([]byte, maxReadSize)
	for {
		n, from, err := s.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		r.begin()
		r.datagram(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		r.finish()
	}
}

func (s addrPortSocket) write(burst []byte, size int, to netip.AddrPort, _ bool) error {
	for len(burst) > 0 {
		n := min(size, len(burst))
		if _, err := s.WriteToUDPAddrPort(burst[:n], to); err != nil {
			return err
		}
		burst = burst[n:]
	}
	return nil
}

func (s addrPortSocket) localAddr() net.Addr { return s.LocalAddr() }
func (s addrPortSocket) close() error        { return s.Close() }
func (s addrPortSocket) kernel() bool        { _, ok := s.addrPortConn.(*net.UDPConn); return ok }

type packetSocket struct{ net.PacketConn }

func (s packetSocket) receive(r *receiver) error {
	buf := make([]byte, maxReadSize)
	for {
		n, addr, err := s.ReadFrom(buf)
		if err != nil {
			return err
		}
		r.begin()
		r.datagram(buf[:n], addrPortOf(addr))
		r.finish()
	}
}

func (s packetSocket) write(burst []byte, size int, to netip.AddrPort, _ bool) error {
	addr := net.UDPAddrFromAddrPort(to)
	for len(burst) > 0 {
		n := min(size, len(burst))
		if _, err := s.WriteTo(burst[:n], addr); err != nil {
			return err
		}
		burst = burst[n:]
	}
	return nil
}

func (s packetSocket) localAddr() net.Addr { return s.LocalAddr() }
func (s packetSocket) close() error        { return s.Close() }
func (s packetSocket) kernel() bool        { return false }

// addrPortOf returns the transport address in addr, unmapped from IPv6, or
// the zero AddrPort.
func addrPortOf(addr net.Addr) netip.AddrPort {
	if u, ok := addr.(interface{ AddrPort() netip.AddrPort }); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	if addr == nil {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return ap
}

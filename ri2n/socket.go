package ri2n

import (
	"net"
	"net/netip"
)

// A socket sends and receives datagrams in batches.
type socket interface {
	// read blocks for at least one datagram and calls each for every one that
	// a single system call brought. The slices alias buf.
	read(buf []byte, each func(b []byte, from netip.AddrPort)) error

	// write sends burst as datagrams of size bytes, the last maybe shorter.
	write(burst []byte, size int, to netip.AddrPort) error

	localAddr() net.Addr
	close() error
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

func (s addrPortSocket) read(buf []byte, each func(b []byte, from netip.AddrPort)) error {
	n, from, err := s.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	each(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	return nil
}

func (s addrPortSocket) write(burst []byte, size int, to netip.AddrPort) error {
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

type packetSocket struct{ net.PacketConn }

func (s packetSocket) read(buf []byte, each func(b []byte, from netip.AddrPort)) error {
	n, addr, err := s.ReadFrom(buf)
	if err != nil {
		return err
	}
	each(buf[:n], addrPortOf(addr))
	return nil
}

func (s packetSocket) write(burst []byte, size int, to netip.AddrPort) error {
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

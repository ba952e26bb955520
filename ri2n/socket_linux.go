package ri2n

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketBuffer is what a busy socket needs to survive while its reader is not
// scheduled: 5 ms at 10 Gbit/s, in bytes.
const socketBuffer = 7 << 20

// segmentControlLen is the room for one control message of UDP_SEGMENT, which
// holds 2 bytes, or of UDP_GRO, which holds 4.
var segmentControlLen = unix.CmsgSpace(4)

// A kernelSocket sends bursts with one system call through UDP generic
// segmentation offload and receives them through generic receive offload,
// where the kernel has these.
type kernelSocket struct {
	*net.UDPConn
	gro      bool
	gso      atomic.Bool
	control  []byte // of reads, which one goroutine makes
	controls chan []byte
}

// newKernelSocket prepares u, whose buffers it enlarges as far as it may.
func newKernelSocket(u *net.UDPConn) socket {
	s := &kernelSocket{UDPConn: u, controls: make(chan []byte, 4)}
	raw, err := u.SyscallConn()
	if err != nil {
		return addrPortSocket{u}
	}
	raw.Control(func(fd uintptr) {
		h := int(fd)
		if unix.SetsockoptInt(h, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
			unix.SetsockoptInt(h, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
		}
		if unix.SetsockoptInt(h, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			unix.SetsockoptInt(h, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
		// Datagrams are never fragmented, and PLPMTUD alone decides on their
		// size, not ICMP messages that anybody may forge.
		unix.SetsockoptInt(h, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		unix.SetsockoptInt(h, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		s.gro = unix.SetsockoptInt(h, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
		_, err := unix.GetsockoptInt(h, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil)
	})
	if s.gro {
		s.control = make([]byte, segmentControlLen)
	}
	return s
}

func (s *kernelSocket) read(buf []byte, each func(b []byte, from netip.AddrPort)) error {
	n, controlLen, _, from, err := s.ReadMsgUDPAddrPort(buf, s.control)
	if err != nil {
		return err
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	b := buf[:n]
	size := segmentSize(s.control[:controlLen])
	if size <= 0 || size >= len(b) {
		each(b, from)
		return nil
	}
	for len(b) > 0 {
		k := min(size, len(b))
		each(b[:k:k], from)
		b = b[k:]
	}
	return nil
}

// segmentSize returns the size of the datagrams that were received as one, or
// zero if the control message does not say.
func segmentSize(control []byte) int {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(control) {
			return 0
		}
		data := control[unix.CmsgLen(0):length]
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(binary.NativeEndian.Uint32(data))
		}
		next := unix.CmsgSpace(length - unix.CmsgLen(0))
		if next > len(control) {
			return 0
		}
		control = control[next:]
	}
	return 0
}

func (s *kernelSocket) write(burst []byte, size int, to netip.AddrPort) error {
	if len(burst) > size && s.gso.Load() {
		control := s.segmentControl(size)
		_, _, err := s.WriteMsgUDPAddrPort(burst, control, to)
		s.returnControl(control)
		if err == nil {
			return nil
		}
		if !isOffloadError(err) {
			return err
		}
		// The device under the route cannot; it will not learn it.
		s.gso.Store(false)
	}
	return addrPortSocket{s.UDPConn}.write(burst, size, to)
}

// isOffloadError reports whether the kernel refused the segmentation rather
// than the datagrams.
func isOffloadError(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EMSGSIZE)
}

// segmentControl returns the control message that asks for datagrams of size
// bytes.
func (s *kernelSocket) segmentControl(size int) []byte {
	var b []byte
	select {
	case b = <-s.controls:
	default:
		b = make([]byte, segmentControlLen)
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b[:unix.CmsgSpace(2)]
}

func (s *kernelSocket) returnControl(b []byte) {
	select {
	case s.controls <- b[:segmentControlLen]:
	default:
	}
}

func (s *kernelSocket) localAddr() net.Addr { return s.LocalAddr() }
func (s *kernelSocket) close() error        { return s.Close() }

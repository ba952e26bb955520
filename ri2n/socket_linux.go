package ri2n

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// socketBuffer is what a busy socket needs to survive while its reader is
	// not scheduled: 5 ms at 10 Gbit/s, in bytes.
	socketBuffer = 7 << 20

	// maxReadBatch is how many messages one system call reads at most. Where
	// the kernel merges nothing, a message is a packet.
	maxReadBatch = 32

	// mergedReadBatch is the same where the kernel merges packets into messages
	// of up to 64 KiB: what is read should still be in the cache when it is
	// looked at.
	mergedReadBatch = 4
	mergedMessage   = 8 << 10

	// quietReads is after how many reads with less than a quarter of a batch
	// the batch gets smaller, and its buffers are given back.
	quietReads = 256

	// readStride is the distance of read buffers. It is no power of two, or
	// the fronts of all would compete for the same lines of the cache.
	readStride = maxReadSize + 1600
)

// controlLen is the room for one control message of UDP_SEGMENT, which holds
// 2 bytes, or of UDP_GRO, which holds 4.
const controlLen = unix.SizeofCmsghdr + 8

// A kernelSocket sends bursts with one system call through UDP generic
// segmentation offload and receives them through generic receive offload,
// where the kernel has these, and many messages with one call elsewhere.
type kernelSocket struct {
	*net.UDPConn
	raw  syscall.RawConn
	gso  atomic.Bool
	ipv6 bool // of the socket: IPv4 addresses are mapped
}

// newKernelSocket prepares u, whose buffers it enlarges as far as it may.
func newKernelSocket(u *net.UDPConn) socket {
	raw, err := u.SyscallConn()
	if err != nil {
		return addrPortSocket{u}
	}
	s := &kernelSocket{UDPConn: u, raw: raw}
	known := false
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
		unix.SetsockoptInt(h, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // an old kernel has none
		_, err := unix.GetsockoptInt(h, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil)
		family, err := unix.GetsockoptInt(h, unix.SOL_SOCKET, unix.SO_DOMAIN)
		known = err == nil && (family == unix.AF_INET || family == unix.AF_INET6)
		s.ipv6 = family == unix.AF_INET6
	})
	if !known {
		return addrPortSocket{u}
	}
	return s
}

// A message is one struct mmsghdr with what it points to, save for the bytes.
type message struct {
	iov     unix.Iovec
	control [controlLen]byte      // aligned as a header of it must be
	name    unix.RawSockaddrInet6 // or RawSockaddrInet4 at its front
}

// An mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// A readBatch is the memory that a socket's reader receives into.
type readBatch struct {
	socket *kernelSocket
	r      *receiver
	hdrs   []mmsghdr
	msgs   []message
	bufs   [][]byte
	want   int // messages that the next call asks for
	have   int // messages that there are buffers for
	quiet  int // reads in a row that brought little
	err    error
	zones  map[uint32]string // names of interfaces; nil: none was needed yet
}

// receive implements socket. All of the reading happens in one call of the
// socket's raw Read: when a read has brought less than it asked for, the
// socket is empty, and waiting for the netpoller needs no further system call
// to find that out.
func (s *kernelSocket) receive(r *receiver) error {
	b := &readBatch{
		socket: s,
		r:      r,
		hdrs:   make([]mmsghdr, maxReadBatch),
		msgs:   make([]message, maxReadBatch),
		bufs:   make([][]byte, maxReadBatch),
	}
	b.resize(1)
	if err := s.raw.Read(b.drain); err != nil {
		return err
	}
	return b.err
}

// drain reads until the socket is empty, which false says, or failed.
func (b *readBatch) drain(fd uintptr) bool {
	for {
		for i := range b.want {
			h := &b.hdrs[i].hdr
			h.Namelen = uint32(unsafe.Sizeof(b.msgs[i].name))
			h.SetControllen(controlLen)
			h.Flags = 0
		}
		n, errno := mmsg(unix.SYS_RECVMMSG, fd, b.hdrs[:b.want])
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			b.adapt(0, 0)
			return false
		default:
			b.err = errno
			return true
		}
		b.r.begin()
		largest := 0
		for i := range n {
			largest = max(largest, int(b.hdrs[i].len))
			b.split(i)
		}
		b.r.finish()
		asked := b.want
		b.adapt(n, largest)
		if n < asked {
			return false
		}
	}
}

// split hands on the datagrams of message i.
func (b *readBatch) split(i int) {
	h, m := &b.hdrs[i], &b.msgs[i]
	if h.hdr.Flags&unix.MSG_TRUNC != 0 {
		return // larger than any datagram can be
	}
	from := b.sender(m)
	data := b.bufs[i][:h.len]
	size := segmentSize(m.control[:min(int(h.hdr.Controllen), controlLen)])
	if size <= 0 || size >= len(data) {
		b.r.datagram(data, from)
		return
	}
	for len(data) > 0 {
		n := min(size, len(data))
		b.r.datagram(data[:n:n], from)
		data = data[n:]
	}
}

// sender returns the address that m came from.
func (b *readBatch) sender(m *message) netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&m.name.Port))
	at := binary.BigEndian.Uint16(port[:])
	if m.name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), at)
	}
	addr := netip.AddrFrom16(m.name.Addr).Unmap()
	if m.name.Scope_id != 0 && addr.Is6() {
		addr = addr.WithZone(b.zone(m.name.Scope_id))
	}
	return netip.AddrPortFrom(addr, at)
}

// zone returns the name of an interface, as package net does, so that the
// addresses of both compare equal.
func (b *readBatch) zone(index uint32) string {
	if name, ok := b.zones[index]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(index), 10)
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		name = i.Name
	}
	if b.zones == nil {
		b.zones = make(map[uint32]string)
	}
	b.zones[index] = name
	return name
}

// adapt follows what a read brought: n messages, the largest of so many bytes.
func (b *readBatch) adapt(n, largest int) {
	limit := maxReadBatch
	if largest > mergedMessage {
		limit = mergedReadBatch
	}
	switch {
	case n == b.want && b.want < limit:
		if b.want *= 2; b.want > b.have {
			b.resize(b.want)
		}
	case b.want > limit:
		// The buffers stay: where merged messages and lone packets take turns,
		// as under a flood, the next read may want them again.
		b.want = limit
	case 4*n < b.want || n == 0:
		if b.quiet++; b.quiet >= quietReads && b.have > 1 {
			b.resize(max(b.want/2, 1))
		}
		return
	}
	b.quiet = 0
}

// resize makes the batch one of n messages. Buffers that are not touched cost
// no memory: of one that only ever holds a packet, the front is in use.
func (b *readBatch) resize(n int) {
	b.quiet = 0
	clear(b.bufs)
	clear(b.hdrs)
	b.want, b.have = n, n
	room := make([]byte, n*readStride)
	for i := range n {
		buf := room[i*readStride : i*readStride+maxReadSize]
		b.bufs[i] = buf
		m := &b.msgs[i]
		m.iov.Base = &buf[0]
		m.iov.SetLen(len(buf))
		h := &b.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&m.name))
		h.Iov = &m.iov
		h.SetIovlen(1)
		h.Control = &m.control[0]
	}
	for i := n; i < len(b.msgs); i++ {
		b.msgs[i].iov.Base = nil
	}
}

// mmsg calls recvmmsg or sendmmsg without waiting. The scheduler is not told,
// since the call never blocks.
func mmsg(trap, fd uintptr, hdrs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
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

// A writeJob is one call of write: what the system call points to, and the
// function that makes it, so that nothing is allocated for each burst.
type writeJob struct {
	control [controlLen]byte // aligned as a header of it must be
	name    unix.RawSockaddrInet6
	hdrs    [maxBurstPackets]mmsghdr
	iovs    [maxBurstPackets]unix.Iovec
	count   int
	at      int // messages sent so far
	errno   unix.Errno
	call    func(fd uintptr) bool // j.send
}

// writeJobs is shared by all sockets and holds no state.
var writeJobs = sync.Pool{New: func() any {
	j := new(writeJob)
	j.call = j.send
	return j
}}

// send makes the system calls. False asks to be called again once the socket
// takes more.
func (j *writeJob) send(fd uintptr) bool {
	for j.at < j.count {
		n, errno := mmsg(unix.SYS_SENDMMSG, fd, j.hdrs[j.at:j.count])
		switch errno {
		case 0:
			j.at += n
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			j.errno = errno
			return true
		}
	}
	return true
}

// write implements socket.
func (s *kernelSocket) write(burst []byte, size int, to netip.AddrPort, whole bool) error {
	if len(burst) == 0 {
		return nil
	}
	j := writeJobs.Get().(*writeJob)
	defer writeJobs.Put(j)
	namelen, ok := j.setName(to, s.ipv6)
	if !ok {
		return net.InvalidAddrError("ri2n: no address of the socket's family")
	}
	if len(burst) > size && whole && s.gso.Load() {
		j.add(burst, namelen, j.segmentControl(size))
		err := s.transmit(j)
		if !isOffloadError(err) {
			return err
		}
		if err = s.writeEach(j, burst, size, namelen); err == nil {
			// The device under the route cannot; it will not learn it.
			s.gso.Store(false)
		}
		return err
	}
	return s.writeEach(j, burst, size, namelen)
}

// writeEach sends the datagrams of burst one by one.
func (s *kernelSocket) writeEach(j *writeJob, burst []byte, size int, namelen uint32) error {
	for len(burst) > 0 {
		n := min(size, len(burst))
		j.add(burst[:n], namelen, nil)
		burst = burst[n:]
		if j.count == len(j.hdrs) || len(burst) == 0 {
			if err := s.transmit(j); err != nil {
				return err
			}
		}
	}
	return nil
}

// transmit sends what has been added to j and empties it.
func (s *kernelSocket) transmit(j *writeJob) error {
	err := s.raw.Write(j.call)
	errno := j.errno
	for i := range j.count {
		j.iovs[i].Base = nil
	}
	j.count, j.at, j.errno = 0, 0, 0
	switch {
	case err != nil:
		return err
	case errno != 0:
		return errno
	}
	return nil
}

// add appends a message of the bytes b with a control message or none.
func (j *writeJob) add(b []byte, namelen uint32, control []byte) {
	iov, h := &j.iovs[j.count], &j.hdrs[j.count].hdr
	iov.Base = &b[0]
	iov.SetLen(len(b))
	*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&j.name)), Namelen: namelen, Iov: iov}
	h.SetIovlen(1)
	if control != nil {
		h.Control = &control[0]
		h.SetControllen(len(control))
	}
	j.count++
}

// setName makes to the destination, for a socket of IPv6 or else of IPv4. It
// returns the length of the address.
func (j *writeJob) setName(to netip.AddrPort, ipv6 bool) (uint32, bool) {
	addr := to.Addr()
	if !addr.IsValid() {
		return 0, false
	}
	if !ipv6 {
		if addr = addr.Unmap(); !addr.Is4() {
			return 0, false
		}
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&j.name))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&v4.Port))[:], to.Port())
		return unix.SizeofSockaddrInet4, true
	}
	j.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		j.name.Scope_id = zoneIndex(zone)
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&j.name.Port))[:], to.Port())
	return unix.SizeofSockaddrInet6, true
}

// zoneIndex returns the number of the interface that a zone names, which is
// zero if there is none.
func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// segmentControl returns the control message that asks for datagrams of size
// bytes.
func (j *writeJob) segmentControl(size int) []byte {
	b := j.control[:unix.CmsgSpace(2)]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b
}

// isOffloadError reports whether the kernel refused the segmentation rather
// than the datagrams.
func isOffloadError(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EMSGSIZE)
}

func (s *kernelSocket) localAddr() net.Addr { return s.LocalAddr() }
func (s *kernelSocket) close() error        { return s.Close() }
func (s *kernelSocket) kernel() bool        { return true }

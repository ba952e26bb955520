package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// rawContenders returns what no transport can pass on this machine: "ceiling"
// moves bytes over UDP with segmentation and receive offload, sealed with
// AES-128-GCM and with nothing else, and "udp" is a plain UDP socket for round
// trips. Neither repairs loss; goodput is what arrived and was opened.
func rawContenders() []contender {
	return []contender{
		{"ceiling", "UDP with GSO, GRO and AES-128-GCM, and no transport above", "udp", false, rawKind{sealed: true}.listen, rawKind{sealed: true}.dialer},
		{"udp", "plain UDP", "udp", false, rawKind{}.listen, rawKind{}.dialer},
	}
}

// The datagrams: an 8-byte header of type and stream offset, then for data the
// sealed payload.
const (
	rawHeader   = 8
	rawTag      = 16
	rawSegment  = 1472                            // of UDP payload: an MTU of 1500
	rawPayload  = rawSegment - rawHeader - rawTag // bytes of the stream in a full segment
	rawSegments = 44                              // of 1472 fit in the 65507 bytes of one sendmsg
	rawBurst    = rawSegments * rawPayload
	rawBatch    = 8       // datagrams for each recvmmsg
	rawWindow   = 4 << 20 // bytes on their way at most
	rawCredit   = 256 << 10
	rawBuffer   = 16 << 20
	rawPatience = 20 * time.Millisecond // without credit, all on its way counts as lost
)

const (
	rawData = iota + 1
	rawCredits
	rawEnd
	rawHello
	rawWelcome
)

func putRawHeader(b []byte, kind byte, offset int64) {
	binary.BigEndian.PutUint64(b, uint64(kind)<<56|uint64(offset))
}

func rawHeaderOf(b []byte) (kind byte, offset int64) {
	v := binary.BigEndian.Uint64(b)
	return byte(v >> 56), int64(v & (1<<56 - 1))
}

// A rawKind is sealed or plain.
type rawKind struct{ sealed bool }

// rawControl lets each accepted peer have a connected socket on the port of
// the listener, and gives the socket room.
func rawControl(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(f uintptr) {
		fd := int(f)
		failed = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1),
		)
		// Not granted to everybody; then the system's limit holds.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rawBuffer)
	})
	return errors.Join(failed, err)
}

type rawListener struct {
	kind rawKind
	pc   *net.UDPConn
	seen map[netip.AddrPort]bool // hellos are repeated; Accept owns it
}

func (k rawKind) listen(ctx context.Context, address string, _ identity) (listener, error) {
	lc := net.ListenConfig{Control: rawControl}
	pc, err := lc.ListenPacket(ctx, "udp4", firstAddress(address))
	if err != nil {
		return nil, err
	}
	return &rawListener{k, pc.(*net.UDPConn), make(map[netip.AddrPort]bool)}, nil
}

func (l *rawListener) Addr() net.Addr { return l.pc.LocalAddr() }
func (l *rawListener) Close() error   { return l.pc.Close() }

func (l *rawListener) Accept(ctx context.Context) (conn, error) {
	stop := context.AfterFunc(ctx, func() { l.pc.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := l.pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, err
		}
		if n != rawHeader || l.seen[from] || len(l.seen) >= maxConns*1024 {
			continue
		}
		if kind, _ := rawHeaderOf(buf); kind != rawHello {
			continue
		}
		l.seen[from] = true
		d := net.Dialer{LocalAddr: l.pc.LocalAddr(), Control: rawControl}
		pc, err := d.DialContext(ctx, "udp4", from.String())
		if err != nil {
			return nil, err
		}
		c, err := newRawConn(pc.(*net.UDPConn), l.kind)
		if err != nil {
			return nil, err
		}
		if err := c.control(rawWelcome, 0); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
}

type rawDialer struct {
	kind    rawKind
	address string
}

func (k rawKind) dialer(_ context.Context, to target, _ identity) (dialer, error) {
	return &rawDialer{k, firstAddress(to.address)}, nil
}

func (d *rawDialer) Dial(ctx context.Context) (conn, error) {
	nd := net.Dialer{Control: rawControl}
	pc, err := nd.DialContext(ctx, "udp4", d.address)
	if err != nil {
		return nil, err
	}
	c, err := newRawConn(pc.(*net.UDPConn), d.kind)
	if err != nil {
		return nil, err
	}
	for range 50 {
		if err = c.control(rawHello, 0); err != nil {
			break
		}
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if err = c.welcomed(); err == nil {
			c.SetReadDeadline(time.Time{})
			return c, nil
		}
		if ctx.Err() != nil {
			err = ctx.Err()
			break
		}
	}
	c.Close()
	return nil, fmt.Errorf("no answer: %w", err)
}

func (d *rawDialer) Close() error { return nil }

// A rawConn moves bytes in order of arrival. One goroutine reads and one
// writes.
type rawConn struct {
	*net.UDPConn
	aead  cipher.AEAD // nil: plain
	batch *ipv4.PacketConn

	// The writer's.
	offset   int64
	pending  []byte // waits for a whole burst
	out      []byte // the burst being built
	credited atomic.Int64
	credit   chan struct{} // holds one token

	// The reader's.
	in       []ipv4.Message
	at, have int    // the next of have messages
	left     []byte // of the datagram being read: segments that follow
	segment  int
	plain    []byte // opened, and not yet returned
	room     []byte // that plain points into
	ended    bool
	highest  int64
	told     int64
}

func newRawConn(pc *net.UDPConn, kind rawKind) (*rawConn, error) {
	c := &rawConn{
		UDPConn: pc,
		batch:   ipv4.NewPacketConn(pc),
		credit:  make(chan struct{}, 1),
		out:     make([]byte, 0, 64<<10),
		room:    make([]byte, 0, rawSegment),
		in:      make([]ipv4.Message, rawBatch),
	}
	for i := range c.in {
		c.in[i].Buffers = [][]byte{make([]byte, 64<<10)}
		c.in[i].OOB = make([]byte, 64)
	}
	if kind.sealed {
		// What is measured is the work, not the secret.
		block, err := aes.NewCipher(make([]byte, 16))
		if err != nil {
			return nil, err
		}
		if c.aead, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// control sends a datagram without payload.
func (c *rawConn) control(kind byte, offset int64) error {
	var b [rawHeader]byte
	putRawHeader(b[:], kind, offset)
	_, err := c.UDPConn.Write(b[:])
	return err
}

// welcomed waits for the answer to a hello.
func (c *rawConn) welcomed() error {
	var b [rawSegment]byte
	for {
		n, err := c.UDPConn.Read(b[:])
		if err != nil {
			return err
		}
		if n == rawHeader {
			if kind, _ := rawHeaderOf(b[:]); kind == rawWelcome {
				return nil
			}
		}
	}
}

// Write sends b; a large one waits for what fills a burst.
func (c *rawConn) Write(b []byte) (int, error) {
	size := len(b)
	small := size < rawPayload
	for len(b) > 0 || small && len(c.pending) > 0 {
		if len(c.pending) == 0 && len(b) >= rawBurst {
			if err := c.burst(b[:rawBurst]); err != nil {
				return size - len(b), err
			}
			b = b[rawBurst:]
			continue
		}
		n := min(rawBurst-len(c.pending), len(b))
		c.pending = append(c.pending, b[:n]...)
		b = b[n:]
		if len(c.pending) == rawBurst || small {
			if err := c.flush(); err != nil {
				return size - len(b), err
			}
		}
	}
	return size, nil
}

func (c *rawConn) flush() error {
	if len(c.pending) == 0 {
		return nil
	}
	err := c.burst(c.pending)
	c.pending = c.pending[:0]
	return err
}

// burst seals b into segments and sends them in one call.
func (c *rawConn) burst(b []byte) error {
	if err := c.waitCredit(); err != nil {
		return err
	}
	out := c.out[:0]
	for len(b) > 0 {
		n := min(rawPayload, len(b))
		at := len(out)
		out = out[:at+rawHeader]
		putRawHeader(out[at:], rawData, c.offset)
		if c.aead != nil {
			var nonce [12]byte
			copy(nonce[4:], out[at:at+rawHeader])
			out = c.aead.Seal(out, nonce[:], b[:n], out[at:at+rawHeader])
		} else {
			out = append(out, b[:n]...)
		}
		c.offset += int64(n)
		b = b[n:]
	}
	segment := rawSegment
	if c.aead == nil {
		segment -= rawTag
	}
	if len(out) <= segment {
		_, err := c.UDPConn.Write(out)
		return err
	}
	_, _, err := c.UDPConn.WriteMsgUDPAddrPort(out, segmentMessage(segment), netip.AddrPort{})
	return err
}

// segmentMessage is the control message that asks for segments of size bytes.
func segmentMessage(size int) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(b[8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(b[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b
}

// waitCredit waits until less than a window is on its way.
func (c *rawConn) waitCredit() error {
	if c.offset-c.credited.Load() < rawWindow {
		return nil
	}
	timer := time.NewTimer(rawPatience)
	defer timer.Stop()
	for c.offset-c.credited.Load() >= rawWindow {
		select {
		case <-c.credit:
		case <-timer.C:
			c.credited.Store(c.offset)
			return nil
		}
	}
	return nil
}

// CloseWrite sends what waits and says several times that this was all.
func (c *rawConn) CloseWrite() error {
	if err := c.flush(); err != nil {
		return err
	}
	for range 3 {
		if err := c.control(rawEnd, c.offset); err != nil {
			return err
		}
	}
	return nil
}

// Read returns what has arrived, each segment opened.
func (c *rawConn) Read(b []byte) (int, error) {
	for {
		if len(c.plain) > 0 {
			n := copy(b, c.plain)
			c.plain = c.plain[n:]
			return n, nil
		}
		n := 0
		for len(c.left) > 0 {
			if len(b)-n < c.segment && n > 0 {
				return n, nil
			}
			took := min(c.segment, len(c.left))
			datagram := c.left[:took]
			c.left = c.left[took:]
			n += c.take(datagram, b[n:])
		}
		if n > 0 {
			return n, nil
		}
		if c.ended {
			return 0, io.EOF
		}
		if len(c.plain) > 0 {
			continue
		}
		if err := c.receive(); err != nil {
			return 0, err
		}
	}
}

// receive makes left the next message, from the system if none waits.
func (c *rawConn) receive() error {
	if c.at == c.have {
		n, err := c.batch.ReadBatch(c.in, 0)
		if err != nil {
			return err
		}
		c.at, c.have = 0, n
	}
	m := &c.in[c.at]
	c.at++
	c.left = m.Buffers[0][:m.N]
	c.segment = max(1, len(c.left))
	if s := groSize(m.OOB[:m.NN]); s > 0 {
		c.segment = s
	}
	return nil
}

// groSize returns the size of the segments that a received message was put
// together from, zero if from none.
func groSize(oob []byte) int {
	const header = 16
	if len(oob) < header+4 || binary.NativeEndian.Uint32(oob[8:]) != unix.IPPROTO_UDP || binary.NativeEndian.Uint32(oob[12:]) != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint32(oob[header:]))
}

// take handles one datagram and returns how many bytes it opened into b.
func (c *rawConn) take(d, b []byte) int {
	if len(d) < rawHeader {
		return 0
	}
	kind, offset := rawHeaderOf(d)
	switch kind {
	case rawCredits:
		if offset > c.credited.Load() {
			c.credited.Store(offset)
		}
		select {
		case c.credit <- struct{}{}:
		default:
		}
	case rawEnd:
		c.ended = true
	case rawData:
		return c.open(d, offset, b)
	}
	return 0
}

// open puts the payload of d into b, or into plain where b is short.
func (c *rawConn) open(d []byte, offset int64, b []byte) int {
	dst := b[:0:len(b)]
	size := len(d) - rawHeader
	if c.aead != nil {
		size -= rawTag
	}
	direct := size <= len(b)
	if !direct {
		dst = c.room[:0]
	}
	if c.aead != nil {
		var nonce [12]byte
		copy(nonce[4:], d[:rawHeader])
		opened, err := c.aead.Open(dst, nonce[:], d[rawHeader:], d[:rawHeader])
		if err != nil {
			return 0 // damaged: not goodput
		}
		dst = opened
	} else {
		dst = append(dst, d[rawHeader:]...)
	}
	c.highest = max(c.highest, offset+int64(len(dst)))
	if c.highest-c.told >= rawCredit {
		c.told = c.highest
		_ = c.control(rawCredits, c.highest) // a lost one is as one that was not sent
	}
	if !direct {
		c.plain = dst
		return 0
	}
	return len(dst)
}

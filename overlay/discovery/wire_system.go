package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"

	"github.com/instantgrid/instantgrid/ri2n/links"
)

var group = net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: port}

// A systemWire is multicast DNS on this computer's interfaces, beside whatever
// other program speaks it here.
type systemWire struct {
	conn *ipv4.PacketConn
	skip func(string) bool
	buf  [maxPacket]byte // Receive's
	mu   sync.Mutex      // one sender at a time, where the interface is the socket's
}

// maxPacket is the largest message, in bytes (RFC 6762, section 17).
const maxPacket = 9000

// System opens multicast DNS on this computer's interfaces, save for those whose
// name skip tells of, loopback, and those that do not multicast.
func System(skip func(name string) bool) (Wire, error) {
	// For a multicast address the Go runtime shares the port with others.
	c, err := net.ListenUDP("udp4", &group)
	if err != nil {
		return nil, fmt.Errorf("discovery: listen for multicast DNS: %w", err)
	}
	w := &systemWire{conn: ipv4.NewPacketConn(c), skip: skip}
	// RFC 6762, section 11: all messages are sent with TTL 255. Other nodes of
	// this computer hear us by loopback, which is on.
	err = errors.Join(w.conn.SetMulticastTTL(255), w.conn.SetTTL(255), w.conn.SetMulticastLoopback(true))
	if err == nil {
		err = w.conn.SetControlMessage(ipv4.FlagInterface, true)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("discovery: set up multicast DNS: %w", err)
	}
	return w, nil
}

// Watch joins the group on each interface that comes.
func (w *systemWire) Watch(ctx context.Context, report func([]Attachment)) error {
	return links.Watch(ctx, links.Config{Skip: w.skip}, func(c links.Change) {
		var list []Attachment
		joined := make(map[int]bool)
		for _, a := range c.All {
			i, err := net.InterfaceByName(a.Interface)
			if err != nil || i.Flags&net.FlagMulticast == 0 || !a.Addr().Is4() || joined[i.Index] {
				continue
			}
			// The membership of an interface that went and came is still there.
			if err := w.conn.JoinGroup(i, &group); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			joined[i.Index] = true
			list = append(list, Attachment{Index: i.Index, Name: a.Interface, Prefix: a.Prefix})
		}
		report(list)
	})
}

func (w *systemWire) Receive() (Packet, error) {
	for {
		n, cm, from, err := w.conn.ReadFrom(w.buf[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return Packet{}, err
			}
			continue // an ICMP message of an earlier send
		}
		u, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		p := Packet{Data: w.buf[:n], From: netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port())}
		if cm != nil {
			p.Index = cm.IfIndex
		}
		return p, nil
	}
}

func (w *systemWire) Send(at Attachment, to netip.AddrPort, b []byte) error {
	target := &group
	if to.IsValid() {
		target = net.UDPAddrFromAddrPort(to)
	}
	cm := &ipv4.ControlMessage{IfIndex: at.Index, Src: at.Prefix.Addr().AsSlice()}
	if runtime.GOOS == "windows" { // which knows no control messages
		w.mu.Lock()
		defer w.mu.Unlock()
		i, err := net.InterfaceByIndex(at.Index)
		if err != nil {
			return err
		}
		if err := w.conn.SetMulticastInterface(i); err != nil {
			return err
		}
		cm = nil
	}
	_, err := w.conn.WriteTo(b, cm, target)
	return err
}

func (w *systemWire) Close() error { return w.conn.Close() }

package portmap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

const (
	// askFirst is the first wait for an answer; each next one is twice as long
	// (RFC 6886, section 3.1).
	askFirst = 250 * time.Millisecond
	// askTries is how often a request is sent: 3.75 s in all, where RFC 6887 would
	// go on for ever. A router is one hop away.
	askTries = 4
	// maxIgnored bounds the packets that one request looks at in vain.
	maxIgnored = 256
)

// ErrNoAnswer reports that the router does not speak the protocol, or is too
// slow.
var ErrNoAnswer = errors.New("portmap: the router does not answer")

// A router is the gateway as one socket behind it sees it.
type router struct {
	gateway  netip.Addr
	local    netip.AddrPort // of the socket that is to be reached
	label    string
	listen   func() (net.PacketConn, error)
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	counters *counters
}

// ask sends requests to a port of the router from a socket of its own, until
// take accepts an answer. Packets from anywhere else are not looked at; an
// answer that comes after the last wait finds the socket closed.
func (r *router) ask(ctx context.Context, port uint16, requests [][]byte, take func(b []byte) bool, also ...netip.AddrPort) error {
	pc, err := r.listen()
	if err != nil {
		return err
	}
	defer pc.Close()
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	buf := make([]byte, 2048)
	ignored := 0
	wait := askFirst
	for range askTries {
		for _, request := range requests {
			for _, to := range append([]netip.AddrPort{netip.AddrPortFrom(r.gateway, port)}, also...) {
				// A failed send counts as a lost packet.
				_, _ = pc.WriteTo(request, net.UDPAddrFromAddrPort(to))
			}
		}
		if err := pc.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		for {
			n, from, err := pc.ReadFrom(buf)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			switch {
			case err != nil: // an ICMP error of an earlier packet
			case addrPortOf(from).Addr() != r.gateway || port == routerPort && addrPortOf(from).Port() != routerPort:
				r.counters.strangers.Add(1)
			case take(buf[:n]):
				return nil
			default:
				r.counters.malformed.Add(1)
			}
			if ignored++; ignored >= maxIgnored {
				return ErrNoAnswer
			}
		}
		wait *= 2
	}
	return ErrNoAnswer
}

func addrPortOf(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

package socks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	// maxTargets bounds the targets of one client's packets, so that answers are
	// told to come from where the client has sent to. The oldest goes.
	maxTargets = 256
	// maxOutside bounds the sockets that one client has outside the grid.
	maxOutside = 64
	// outsideIdle is how long one is kept without a packet.
	outsideIdle = 2 * time.Minute
	// maxDatagram is the largest packet of IPv4.
	maxDatagram = 65_507
)

// An association is a client's socket for packets (section 7). It lives as long
// as the connection that asked for it.
type association struct {
	s     *Server
	local net.PacketConn // where the client sends to
	grid  net.PacketConn

	mu      sync.Mutex // guards what follows
	client  netip.AddrPort
	targets map[string]target // by the address that answers come from
	order   []string          // of targets, oldest first
	outside map[target]net.Conn
}

// A gridAddress is a target in the grid as an address of packets.
type gridAddress string

func (gridAddress) Network() string  { return "udp" }
func (a gridAddress) String() string { return string(a) }

// associate serves UDP ASSOCIATE.
func (s *Server) associate(ctx context.Context, c net.Conn) {
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		s.answer(c, failed)
		return
	}
	local, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		s.answer(c, failed)
		return
	}
	defer local.Close()
	grid, err := s.cfg.Grid.ListenPacket("udp", ":0")
	if err != nil {
		s.answer(c, failed)
		return
	}
	defer grid.Close()
	a := &association{s: s, local: local, grid: grid, targets: make(map[string]target), outside: make(map[target]net.Conn)}
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		s.answer(c, failed)
		return
	}
	// Its port is known with its first packet; packets of other hosts are none.
	a.client = netip.AddrPortFrom(from.Addr().Unmap(), 0)
	bound, err := netip.ParseAddrPort(local.LocalAddr().String())
	if err != nil {
		s.answer(c, failed)
		return
	}
	if _, err := c.Write(appendReply(nil, succeeded, bound)); err != nil {
		return
	}
	s.Counters.Associated.Add(1)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	running.Go(func() { a.fromClient(ctx, &running) })
	running.Go(func() { a.answers(grid) })
	_, _ = io.Copy(io.Discard, c) // its end is that of the association
	cancel()
	local.Close()
	grid.Close()
	a.mu.Lock()
	for _, o := range a.outside {
		o.Close()
	}
	a.mu.Unlock()
	running.Wait()
}

// fromClient passes on what the client sends.
func (a *association) fromClient(ctx context.Context, running *sync.WaitGroup) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := a.local.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if !a.isClient(from) {
			a.s.Counters.Dropped.Add(1)
			continue
		}
		to, payload, err := parsePacket(buf[:n])
		if err != nil {
			a.s.Counters.Malformed.Add(1)
			continue
		}
		if err := a.send(ctx, to, payload, running); err != nil {
			a.s.Counters.Dropped.Add(1)
			a.s.log.Debug("packet dropped", "to", to.String(), "err", err)
			continue
		}
		a.s.Counters.Sent.Add(uint64(len(payload)))
	}
}

// isClient reports whether a packet is the client's: of its host, and of the
// port of the first one.
func (a *association) isClient(from net.Addr) bool {
	u, ok := from.(*net.UDPAddr)
	if !ok {
		return false
	}
	ap := netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client.Port() == 0 && ap.Addr() == a.client.Addr() {
		a.client = ap
	}
	return ap == a.client
}

// send passes one packet on.
func (a *association) send(ctx context.Context, to target, payload []byte, running *sync.WaitGroup) error {
	if name, ours := a.s.cfg.Grid.Locate(to.host); ours {
		_, err := a.grid.WriteTo(payload, gridAddress(target{name, to.port}.String()))
		if err == nil {
			a.mu.Lock()
			a.learn(to)
			a.mu.Unlock()
		}
		return err
	}
	if a.s.cfg.Outside == nil {
		a.s.Counters.Outside.Add(1)
		return &OutsideError{to.String()}
	}
	a.mu.Lock()
	c := a.outside[to]
	full := len(a.outside) >= maxOutside
	a.mu.Unlock()
	if c == nil {
		if full {
			return errors.New("socks: too many targets outside the grid")
		}
		// A socket of the kernel is there at once; a name takes a resolver.
		dialing, cancel := context.WithTimeout(ctx, dialTime)
		d, err := a.s.cfg.Outside(dialing, "udp", to.String())
		cancel()
		if err != nil {
			return err
		}
		c = d
		a.mu.Lock()
		a.outside[to] = c
		a.mu.Unlock()
		running.Go(func() { a.answersFrom(to, d) })
	}
	_, err := c.Write(payload)
	return err
}

// learn notes under which name the client knows a target. The grid's answers
// come with another: that of the peer.
func (a *association) learn(to target) {
	key := to.String()
	if _, known := a.targets[key]; known {
		return
	}
	if len(a.order) >= maxTargets {
		delete(a.targets, a.order[0])
		a.order = a.order[1:]
	}
	a.targets[key] = to
	a.order = append(a.order, key)
}

// shown returns the target that the client has sent to and that answers as from.
func (a *association) shown(from net.Addr) target {
	host, port, err := net.SplitHostPort(from.String())
	if err != nil {
		return target{host: from.String()}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return target{host: host}
	}
	answer := target{host, uint16(number)}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(a.order) - 1; i >= 0; i-- {
		t := a.targets[a.order[i]]
		if t.port != answer.port {
			continue
		}
		name, _ := a.s.cfg.Grid.Locate(t.host)
		if peer, known := a.s.cfg.Grid.Known(name); t == answer || known && peer.String() == host {
			return t
		}
	}
	return answer
}

// answers passes on what comes from the grid.
func (a *association) answers(grid net.PacketConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := grid.ReadFrom(buf)
		if err != nil {
			return
		}
		a.toClient(a.shown(from), buf[:n])
	}
}

// answersFrom passes on what comes from one target outside.
func (a *association) answersFrom(to target, c net.Conn) {
	defer func() {
		c.Close()
		a.mu.Lock()
		delete(a.outside, to)
		a.mu.Unlock()
	}()
	buf := make([]byte, maxDatagram)
	for {
		c.SetReadDeadline(time.Now().Add(outsideIdle))
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		a.toClient(to, buf[:n])
	}
}

func (a *association) toClient(from target, payload []byte) {
	a.mu.Lock()
	client := a.client
	a.mu.Unlock()
	if client.Port() == 0 || len(from.host) > maxHostName {
		return
	}
	b := appendPacket(nil, from, payload)
	if _, err := a.local.WriteTo(b, net.UDPAddrFromAddrPort(client)); err != nil {
		a.s.Counters.Dropped.Add(1)
		return
	}
	a.s.Counters.Received.Add(uint64(len(payload)))
}

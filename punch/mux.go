package punch

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// transactionLifetime is how long a response finds its conn; pion/ice
	// itself waits 4 s.
	transactionLifetime = 5 * time.Second
	// maxTransactions bounds the responses awaited on one socket: the budget
	// of 1000 packets a second for a lifetime, and room.
	maxTransactions = 8192
	// maxBinds bounds the Binding transactions of [Mux.Bind] under way.
	maxBinds = 256
	// maxConns bounds the attempts that share a socket.
	maxConns = 4096
	// maxReadErrors is how many failed reads in a row end the mux.
	maxReadErrors = 100
)

// MuxConfig configures a [Mux]. The zero value works.
type MuxConfig struct {
	Logger *slog.Logger // nil: silent
	Filter Filter
	Budget *Budget // shared by the muxes of a node; nil: one of its own
}

// MuxStats counts what a mux did since its start.
type MuxStats struct {
	Received        uint64 // datagrams
	Sent            uint64
	NotSTUN         uint64 // dropped: no Binding message
	UnknownUfrag    uint64 // dropped: request for no attempt of ours
	UnknownResponse uint64 // dropped: no such transaction, or another source
	Refused         uint64 // dropped: integrity, filter or candidate limit
	QueueFull       uint64 // dropped: an attempt read too slowly
	PaceFull        uint64 // dropped: too many checks waited
	OverBudget      uint64 // dropped: answers beyond the budget
	Filtered        uint64 // not sent: destination that gets no packet
	TableFull       uint64 // transactions forgotten early
}

// muxCounters are the counters behind MuxStats.
type muxCounters struct {
	received, sent, notSTUN, unknownUfrag, unknownResponse, refused,
	queueFull, paceFull, overBudget, filtered, tableFull atomic.Uint64
}

// A Mux shares the STUN traffic of one socket among attempts and Binding
// transactions. Requests find their attempt by the local ufrag in USERNAME,
// responses by the transaction ID of the request, never by source address, so
// attempts of several generations and peers can share one pair of transport
// addresses. It implements ice.UDPMux.
//
// A Mux is safe for concurrent use.
type Mux struct {
	pc     net.PacketConn
	local  netip.AddrPort
	log    *slog.Logger
	filter Filter

	counters muxCounters
	kick     chan struct{} // something waits in pace
	closing  chan struct{}
	done     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[connKey]*muxConn
	table  transactionTable
	binds  map[transactionID]*binding
	pace   pacer
	probes map[uint64]func(b []byte, from netip.AddrPort) // by attempt
}

// A connKey names the conn of one attempt and address family.
type connKey struct {
	ufrag string
	ip6   bool
}

// NewMux starts a mux on pc, a UDP socket or the STUN share of one. The mux
// owns pc from here on. It starts two goroutines, which Close ends.
func NewMux(pc net.PacketConn, cfg MuxConfig) (*Mux, error) {
	local, ok := addrPortOf(pc.LocalAddr())
	if !ok {
		return nil, errors.New("punch: the socket's local address is not a UDP address")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Budget == nil {
		cfg.Budget = NewBudget()
	}
	m := &Mux{
		pc:      pc,
		local:   local,
		log:     cfg.Logger,
		filter:  cfg.Filter,
		kick:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		conns:   make(map[connKey]*muxConn),
		table:   transactionTable{entries: make(map[transactionID]transaction)},
		probes:  make(map[uint64]func([]byte, netip.AddrPort)),
		binds:   make(map[transactionID]*binding),
		pace:    pacer{budget: cfg.Budget, peers: make(map[string]*peerQueue)},
	}
	m.done.Add(2)
	go m.readLoop()
	go m.sendLoop()
	return m, nil
}

// LocalAddr returns the socket's own transport address.
func (m *Mux) LocalAddr() netip.AddrPort { return m.local }

// Close closes the socket, fails what is under way, and waits for the mux's
// goroutines. It may be called twice.
func (m *Mux) Close() error {
	m.mu.Lock()
	first := !m.closed
	var conns []*muxConn
	if first {
		m.closed = true
		close(m.closing)
		for _, c := range m.conns {
			conns = append(conns, c)
		}
		clear(m.conns)
		clear(m.table.entries)
		m.table.order = nil
	}
	m.mu.Unlock()
	var err error
	if first {
		for _, c := range conns {
			c.shut()
		}
		err = m.pc.Close()
	}
	m.done.Wait()
	return err
}

// Stats returns the counters.
func (m *Mux) Stats() MuxStats {
	c := &m.counters
	return MuxStats{
		Received: c.received.Load(), Sent: c.sent.Load(), NotSTUN: c.notSTUN.Load(),
		UnknownUfrag: c.unknownUfrag.Load(), UnknownResponse: c.unknownResponse.Load(),
		Refused: c.refused.Load(), QueueFull: c.queueFull.Load(), PaceFull: c.paceFull.Load(),
		OverBudget: c.overBudget.Load(), Filtered: c.filtered.Load(), TableFull: c.tableFull.Load(),
	}
}

// readLoop reads the socket until it is closed.
func (m *Mux) readLoop() {
	defer m.done.Done()
	buf := make([]byte, 2048)
	for failures := 0; failures < maxReadErrors; {
		n, addr, err := m.pc.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-m.closing:
				return
			default:
			}
			// ICMP errors surface here (RFC 1122, section 4.1.3.3); a timeout
			// means that somebody else set a deadline.
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				failures++
			}
			continue
		}
		failures = 0
		m.counters.received.Add(1)
		from, ok := addrPortOf(addr)
		if !ok {
			m.counters.notSTUN.Add(1)
			continue
		}
		m.route(buf[:n], from)
	}
	m.log.Warn("punch: the socket cannot be read", "local", m.local)
}

// route hands one datagram to its owner; b is reused afterwards.
func (m *Mux) route(b []byte, from netip.AddrPort) {
	if isProbe(b) {
		m.mu.Lock()
		take := m.probes[probeAttempt(b)]
		m.mu.Unlock()
		if take != nil {
			take(b, from)
			return
		}
	}
	h, err := parseSTUN(b)
	if err != nil {
		m.counters.notSTUN.Add(1)
		return
	}
	switch h.class {
	case classRequest:
		m.mu.Lock()
		c := m.conns[connKey{h.ufrag, from.Addr().Is6()}]
		m.mu.Unlock()
		if c == nil {
			m.counters.unknownUfrag.Add(1)
			return
		}
		c.deliver(h, b, from)
	case classSuccess, classError:
		m.mu.Lock()
		bind := m.binds[h.id]
		t, ok := m.table.find(time.Now(), h.id)
		m.mu.Unlock()
		switch {
		case bind != nil:
			bind.deliver(m, h, b, from)
		case ok && t.to == from:
			t.conn.deliver(h, b, from)
		default:
			m.counters.unknownResponse.Add(1)
		}
	default:
		// Indications keep mappings alive and need no reading.
		m.counters.notSTUN.Add(1)
	}
}

// send writes b to the socket, now.
func (m *Mux) send(b []byte, to netip.AddrPort) error {
	_, err := m.pc.WriteTo(b, net.UDPAddrFromAddrPort(to))
	if err == nil {
		m.counters.sent.Add(1)
	}
	return err
}

// watchProbes has the probes of an attempt given to take, which must not block
// or keep them; nil ends that.
func (m *Mux) watchProbes(attempt uint64, take func(b []byte, from netip.AddrPort)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if take == nil {
		delete(m.probes, attempt)
		return
	}
	m.probes[attempt] = take
}

// sendCheck sends a connectivity check of c as soon as the pace allows.
func (m *Mux) sendCheck(c *muxConn, id transactionID, b []byte, to netip.AddrPort) error {
	now := time.Now()
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return net.ErrClosed
	}
	leaves, dropped := m.pace.submit(now, c.peer, outgoing{conn: c, to: to, bytes: b})
	if m.table.add(now, id, transaction{conn: c, to: to}) {
		m.counters.tableFull.Add(1)
	}
	m.mu.Unlock()
	m.counters.paceFull.Add(uint64(dropped))
	if leaves {
		return m.send(b, to)
	}
	select {
	case m.kick <- struct{}{}:
	default:
	}
	return nil
}

// sendLoop sends the checks that had to wait.
func (m *Mux) sendLoop() {
	defer m.done.Done()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		m.mu.Lock()
		o, ok, wait := m.pace.next(time.Now())
		m.mu.Unlock()
		if ok {
			// A failed send is as good as a lost packet: checks repeat.
			_ = m.send(o.bytes, o.to)
			continue
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-m.kick:
		case <-timer.C:
		case <-m.closing:
			return
		}
	}
}

// GetListenAddresses implements ice.UDPMux: one local address for each address
// family of the socket, which names the base of the checks.
func (m *Mux) GetListenAddresses() []net.Addr {
	list := []net.Addr{net.UDPAddrFromAddrPort(m.local)}
	if m.local.Addr() == netip.IPv6Unspecified() {
		// A socket of both families.
		list = append(list, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), m.local.Port())))
	}
	return list
}

// errUnknownUfrag reports a conn that no attempt asked for.
var errUnknownUfrag = errors.New("punch: no attempt has this ufrag")

// GetConn implements ice.UDPMux. The attempt with this ufrag has to be open.
func (m *Mux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	local, ok := addrPortOf(addr)
	if !ok {
		return nil, errors.New("punch: not a UDP address")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net.ErrClosed
	}
	c := m.conns[connKey{ufrag, local.Addr().Is6()}]
	if c == nil {
		return nil, errUnknownUfrag
	}
	return c, nil
}

// open makes the conns of one attempt, one for each address family, so that
// checks which arrive before the agent starts find a queue.
func (m *Mux) open(ufrag, peer string, g gate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	if len(m.conns) >= maxConns {
		return errors.New("punch: too many attempts on one socket")
	}
	for _, addr := range m.GetListenAddresses() {
		local, _ := addrPortOf(addr)
		key := connKey{ufrag, local.Addr().Is6()}
		if m.conns[key] != nil {
			return errors.New("punch: two attempts with one ufrag")
		}
		m.conns[key] = newMuxConn(m, peer, local, g)
	}
	return nil
}

// RemoveConnByUfrag implements ice.UDPMux.
func (m *Mux) RemoveConnByUfrag(ufrag string) {
	for _, ip6 := range []bool{false, true} {
		m.mu.Lock()
		key := connKey{ufrag, ip6}
		c := m.conns[key]
		delete(m.conns, key)
		if c != nil {
			m.pace.forget(c)
		}
		m.mu.Unlock()
		if c != nil {
			c.shut()
		}
	}
}

// addrPortOf returns the canonical transport address of a UDP address.
func addrPortOf(a net.Addr) (netip.AddrPort, bool) {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case interface{ AddrPort() netip.AddrPort }:
		ap = a.AddrPort()
	default:
		return netip.AddrPort{}, false
	}
	if !ap.Addr().IsValid() {
		// net.ListenUDP on no address.
		ap = netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// A transaction is a request on its way: who waits for the response, and from
// where it must come.
type transaction struct {
	conn    *muxConn
	to      netip.AddrPort
	expires time.Time
}

// A transactionTable remembers requests for transactionLifetime. All live
// equally long, so the order of entry is the order of expiry.
type transactionTable struct {
	entries map[transactionID]transaction
	order   []transactionID
}

// add enters t and reports whether an unexpired entry had to make room.
func (t *transactionTable) add(now time.Time, id transactionID, entry transaction) (evicted bool) {
	for len(t.order) > 0 {
		oldest, ok := t.entries[t.order[0]]
		if ok && oldest.expires.After(now) {
			if len(t.order) < maxTransactions {
				break
			}
			evicted = true
		}
		delete(t.entries, t.order[0])
		t.order = t.order[1:]
		if evicted {
			break
		}
	}
	if len(t.order) == 0 {
		t.order = nil // lets the array behind go
	}
	entry.expires = now.Add(transactionLifetime)
	t.entries[id] = entry
	t.order = append(t.order, id)
	return evicted
}

// find returns the unexpired entry of id.
func (t *transactionTable) find(now time.Time, id transactionID) (transaction, bool) {
	entry, ok := t.entries[id]
	return entry, ok && entry.expires.After(now)
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/ledger"
	"github.com/instantgrid/instantgrid/rendezvous/relay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures a [Server]. Identity and Listen are required.
type Config struct {
	// Identity is the key that agents pin.
	Identity *ri2n.Identity

	// Listen are bound UDP sockets for sessions and STUN: one, or one for
	// each address family, on the same port. The server owns them from New
	// on, also when New fails.
	Listen []net.PacketConn

	// Alternate are bound UDP sockets on a second port, for STUN alone, so
	// that agents can compare what two destinations see. Owned like Listen.
	Alternate []net.PacketConn

	// Other are bound UDP sockets on a second address, for STUN alone: with
	// two of a family, on the ports of Listen and of Alternate, agents can
	// learn everything about their NATs (RFC 5780). All four must be on
	// addresses of their own. Owned like Listen. Empty: no behavior discovery.
	Other []net.PacketConn

	// Witness are bound UDP sockets, at most one for each family, on ports that
	// nobody is told: answers to RESPONSE-PORT leave from them, as packets of a
	// stranger, so that a NAT lets them in only if it maps the port. Owned like
	// Listen. Empty: they leave from where the request arrived.
	Witness []net.PacketConn

	// Mode says whom the server serves; the zero value serves Members and
	// the guests of their tokens.
	Mode Mode

	// Members are the peer IDs served at first; see [Server.SetMembers].
	Members []ri2n.PeerID

	// Ledger keeps grids, whose members are served as well. Nil: none. It is
	// its owner's, and must live until Close has returned.
	Ledger *ledger.Ledger

	// LedgerShared says that others write to the ledger's store too.
	LedgerShared bool

	Limits Limits
	STUN   STUNLimits

	// Logger receives what an operator should know. Nil is silent.
	Logger *slog.Logger

	// Rand is the source of keys and identifiers. Nil means crypto/rand.
	Rand io.Reader
}

// A Server is a running rendezvous. Its methods may be called concurrently.
type Server struct {
	log       *slog.Logger
	endpoint  *ri2n.Endpoint
	relay     *relay.Relay
	ledger    *ledger.Ledger // nil: none
	asks      askCounters
	responder *responder
	refusals  refusalLog
	alternate []net.PacketConn // and those on the second address
	witness   []net.PacketConn // of alternate
	stop      context.CancelFunc
	running   sync.WaitGroup
	closed    chan struct{}
	closeOnce sync.Once

	strangersRefused atomic.Uint64
	stun             [stunVerdicts]atomic.Uint64
	stunReceived     atomic.Uint64 // bytes
	stunSent         atomic.Uint64
}

// Limits bound what agents may hold. Zero fields take the default.
type Limits = relay.Limits

// A Mode says whom the server serves besides the guests of deposited tokens.
type Mode = relay.Mode

const (
	Members = relay.Members // Config.Members and SetMembers, and the members of the ledger's grids
	Open    = relay.Open    // everybody
	Key     = relay.Key     // the members of the ledger's grids alone
)

// ParseMode decodes the command line's word.
func ParseMode(s string) (Mode, error) { return relay.ParseMode(s) }

// New starts a server.
func New(cfg Config) (*Server, error) {
	closeAll := func() {
		for _, pc := range cfg.Listen {
			pc.Close()
		}
		for _, pc := range cfg.Alternate {
			pc.Close()
		}
		for _, pc := range cfg.Other {
			pc.Close()
		}
		for _, pc := range cfg.Witness {
			pc.Close()
		}
	}
	if cfg.Identity == nil || len(cfg.Listen) == 0 {
		closeAll()
		return nil, errors.New("server: an identity and a socket are required")
	}
	origins, err := newCornerSets(cfg.Listen, cfg.Alternate, cfg.Other)
	if err != nil {
		closeAll()
		return nil, err
	}
	s := newServer(cfg)
	endpoint, err := ri2n.NewEndpoint(ri2n.Config{
		Identity:    cfg.Identity,
		Authorize:   s.authorize,
		Logger:      cfg.Logger,
		Rand:        cfg.Rand,
		MaxSessions: s.relay.MaxSessions(),
	})
	if err != nil {
		closeAll()
		return nil, fmt.Errorf("server: %w", err)
	}
	s.endpoint = endpoint
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	for i, pc := range cfg.Listen {
		link, err := endpoint.AddLink(pc.LocalAddr().String(), pc)
		if err != nil {
			stop()
			endpoint.Close()
			for _, rest := range cfg.Listen[i:] {
				rest.Close()
			}
			for _, pc := range s.alternate {
				pc.Close()
			}
			s.running.Wait()
			return nil, fmt.Errorf("server: %w", err)
		}
		from := origins[pc]
		if from.set != nil {
			from.set.sockets[from.at] = link.Other()
		}
		s.running.Go(func() { s.answer(link.Other(), from) })
	}
	for _, pc := range s.alternate {
		s.running.Go(func() { s.answer(pc, origins[pc]) })
	}
	s.running.Go(func() { s.accept(ctx) })
	s.running.Go(func() { s.relay.Run(ctx) })
	if cfg.Ledger != nil && cfg.LedgerShared {
		s.running.Go(func() { s.refreshLedger(ctx) })
	}
	return s, nil
}

// newServer makes the parts that need no endpoint.
func newServer(cfg Config) *Server {
	s := &Server{
		log:       cfg.Logger,
		responder: newResponder(cfg.STUN),
		alternate: slices.Concat(cfg.Alternate, cfg.Other, cfg.Witness),
		witness:   cfg.Witness,
		closed:    make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ledger = cfg.Ledger
	r := relay.Config{
		Mode:      cfg.Mode,
		Limits:    cfg.Limits,
		STUNPorts: [2]uint16{portOf(cfg.Listen), portOf(cfg.Alternate)},
		Logger:    cfg.Logger,
	}
	if cfg.Ledger != nil {
		r.Ledger = cfg.Ledger
		r.NewAsker = func(a *relay.Agent) relay.Asker { return newAsking(s, a) }
	}
	s.relay = relay.New(r)
	s.relay.SetMembers(cfg.Members)
	return s
}

// portOf returns the port of the first socket, zero if there is none.
func portOf(sockets []net.PacketConn) uint16 {
	if len(sockets) == 0 {
		return 0
	}
	return addrPortOf(sockets[0].LocalAddr()).Port()
}

// addrPortOf converts what sockets call an address. It is the zero AddrPort
// when a names no IP address.
func addrPortOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case interface{ AddrPort() netip.AddrPort }:
		return a.AddrPort()
	case nil:
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// PeerID returns the server's own peer ID.
func (s *Server) PeerID() ri2n.PeerID { return s.endpoint.PeerID() }

// SetMembers replaces the list of members. Sessions of those who are no longer
// on it end within a second or so.
func (s *Server) SetMembers(members []ri2n.PeerID) { s.relay.SetMembers(members) }

// closeTime is how long Close waits for its agents to be told.
const closeTime = time.Second

// Close tells all agents, ends their sessions and returns when every goroutine
// of the server has ended, at the latest after some 5 s. It may be called
// twice.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.relay.Shutdown(closeTime)
		s.stop()
		s.endpoint.Close()
		for _, pc := range s.alternate {
			pc.Close()
		}
		s.running.Wait()
		s.relay.Wait()
		close(s.closed)
	})
	<-s.closed
	return nil
}

// errRefused reports a peer that is not served. What the peer sees of it is
// ri2n.ErrRefused.
var errRefused = errors.New("server: peer is neither member nor guest")

// authorize decides on a handshake worker, before there is any session.
func (s *Server) authorize(peer ri2n.PeerID) error {
	now := time.Now()
	if s.relay.Authorize(now, peer) {
		return nil
	}
	s.strangersRefused.Add(1)
	if s.refusals.due(now, peer) {
		s.log.Info("peer refused", "peer", peer, "next", "to admit it, add this line to the members file: "+peer.String())
	}
	return errRefused
}

// A refusalLog keeps strangers from filling the log: one line a second, and
// one a minute for each peer.
type refusalLog struct {
	mu   sync.Mutex
	last time.Time
	said map[ri2n.PeerID]time.Time
}

// maxSaid bounds the memory for who was logged.
const maxSaid = 256

func (l *refusalLog) due(now time.Time, peer ri2n.PeerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) < time.Second || now.Sub(l.said[peer]) < time.Minute {
		return false
	}
	if len(l.said) >= maxSaid || l.said == nil {
		l.said = make(map[ri2n.PeerID]time.Time)
	}
	l.last, l.said[peer] = now, now
	return true
}

// accept serves every session until ctx ends.
func (s *Server) accept(ctx context.Context) {
	for {
		session, err := s.endpoint.Accept(ctx)
		if err != nil {
			return
		}
		s.running.Go(func() { s.relay.Serve(ctx, relay.OverRI2N(session)) })
	}
}

// answer serves the datagrams of one socket that are not RI2N. at says which of
// four it is.
func (s *Server) answer(pc net.PacketConn, at origin) {
	buf := make([]byte, 2048)
	failures := 0
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			// A socket reports another's ICMP errors and passing shortages
			// of memory, and goes on.
			if failures++; errors.Is(err, net.ErrClosed) || failures > 100 {
				return
			}
			time.Sleep(time.Millisecond)
			continue
		}
		failures = 0
		s.stunReceived.Add(uint64(n))
		a, verdict := s.responder.answer(time.Now(), addrPortOf(from), at, buf[:n])
		s.stun[verdict].Add(1)
		if verdict != stunAnswered {
			continue
		}
		out := pc
		if a.from != at.at {
			out = at.set.sockets[a.from]
		}
		to := from
		if a.port != 0 {
			for _, w := range s.witness {
				if addrPortOf(w.LocalAddr()).Addr().Is4() == addrPortOf(from).Addr().Is4() {
					out = w
				}
			}
			to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrPortOf(from).Addr(), a.port))
		}
		if _, err := out.WriteTo(a.response, to); err == nil {
			s.stunSent.Add(uint64(len(a.response)))
		}
	}
}

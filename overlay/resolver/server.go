package resolver

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// maxUDP is the largest answer over UDP (RFC 9715: no fragments), and plainUDP
	// that to a client without EDNS(0).
	maxUDP   = 1232
	plainUDP = 512
	// maxTCP bounds the clients over TCP of one listener, maxForwarded the
	// questions that wait for a resolver.
	maxTCP       = 128
	maxForwarded = 256
	tcpIdle      = 5 * time.Second
	forwardTime  = 5 * time.Second
	// refreshTime is the pause between two questions to the ledger, and
	// refreshWait how long a client waits for one.
	refreshTime = 5 * time.Second
	refreshWait = 2 * time.Second
	// Rate of answers to one network that is not this computer: what a busy
	// network of people asks for.
	clientRate  = 50
	clientBurst = 100
	maxClients  = 4096 // networks that are told apart
)

// A Grid is what a resolver needs of the overlay; *overlay.Node is one.
type Grid interface {
	// GridName returns the name of the node's grid, empty if it has none.
	GridName() string
	// KnownMembers returns the members known now, by name.
	KnownMembers() []overlay.MemberStatus
	// Members asks for those who have come since, and returns all.
	Members(ctx context.Context) ([]overlay.MemberStatus, error)
	// Offers asks a member which services it offers to this node.
	Offers(ctx context.Context, peer ri2n.PeerID) ([]overlay.Offer, error)
}

// Config configures a [Server]. Grid must be set.
type Config struct {
	Grid Grid

	// Upstream are the resolvers for other names, "HOST:PORT" each, asked in
	// turn. Empty: other names are refused.
	Upstream []string

	// Logger is told what fails. Nil: nobody.
	Logger *slog.Logger
}

// A Server answers for a grid.
type Server struct {
	cfg      Config
	log      *slog.Logger
	Counters Counters

	places chan struct{} // of questions that are forwarded
	limit  limiter
	offers offers

	mu        sync.Mutex // guards what follows
	refreshed time.Time
	refresh   chan struct{} // closed when the question under way is answered; nil: none
}

// NewServer returns a server.
func NewServer(cfg Config) *Server {
	s := &Server{cfg: cfg, log: cfg.Logger, places: make(chan struct{}, maxForwarded)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Serve answers on a UDP socket and a TCP listener, either of which may be nil,
// until ctx ends. It closes both.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn, ln net.Listener) error {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer running.Wait()
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { s.serve(ctx, w, m) })
	failed := make(chan error, 2)
	begin := func(d *dns.Server) {
		started := make(chan struct{})
		d.Handler = handler
		d.NotifyStartedFunc = func() { close(started) }
		d.MsgAcceptFunc = s.accept
		d.MsgInvalidFunc = func([]byte, error) { s.Counters.Malformed.Add(1) }
		running.Go(func() {
			if err := d.ActivateAndServe(); ctx.Err() == nil {
				failed <- err
			}
		})
		running.Go(func() {
			<-ctx.Done()
			select {
			case <-started:
			case <-time.After(time.Second): // it has failed before that
			}
			_ = d.Shutdown() // it has ended by itself, perhaps
		})
	}
	if pc != nil {
		defer pc.Close()
		begin(&dns.Server{PacketConn: pc, UDPSize: maxUDP})
	}
	if ln != nil {
		defer ln.Close()
		begin(&dns.Server{
			Listener: newLimited(ln, maxTCP), ReadTimeout: tcpIdle, WriteTimeout: tcpIdle,
			IdleTimeout: func() time.Duration { return tcpIdle },
		})
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// accept decides from a message's header what becomes of it.
func (s *Server) accept(h dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	switch opcode := int(h.Bits>>11) & 0xf; {
	case h.Bits&response != 0:
		s.Counters.Malformed.Add(1)
		return dns.MsgIgnore // whoever sent it is none of our clients
	case opcode != dns.OpcodeQuery:
		s.Counters.Refused.Add(1)
		return dns.MsgRejectNotImplemented
	case h.Qdcount != 1, h.Ancount > 1, h.Nscount > 1, h.Arcount > 2:
		s.Counters.Malformed.Add(1)
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// serve answers one question.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	client := addressOf(w.RemoteAddr())
	local := client.IsLoopback()
	_, udp := w.LocalAddr().(*net.UDPAddr)
	if !local && !s.limit.allow(time.Now(), client) {
		s.Counters.Limited.Add(1)
		return
	}
	answer := s.answer(ctx, q, local, udp)
	size := dns.MaxMsgSize
	if udp {
		size = plainUDP
		if e := q.IsEdns0(); e != nil {
			size = min(max(int(e.UDPSize()), plainUDP), maxUDP)
		}
	}
	answer.Compress = true
	answer.Truncate(size)
	if answer.Truncated {
		s.Counters.Truncated.Add(1)
	}
	// The client may be gone.
	_ = w.WriteMsg(answer)
}

func addressOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// answer makes the answer to q.
func (s *Server) answer(ctx context.Context, q *dns.Msg, local, udp bool) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = len(s.cfg.Upstream) > 0
	if e := q.IsEdns0(); e != nil {
		m.SetEdns0(maxUDP, false)
		if e.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	if len(q.Question) != 1 { // the library believes a header that announces one
		s.Counters.Malformed.Add(1)
		m.Rcode = dns.RcodeFormatError
		return m
	}
	x := q.Question[0]
	refuse := func() *dns.Msg {
		s.Counters.Refused.Add(1)
		m.Rcode = dns.RcodeRefused
		return m
	}
	if x.Qclass != dns.ClassINET || x.Qtype == dns.TypeANY || x.Qtype == dns.TypeAXFR || x.Qtype == dns.TypeIXFR {
		return refuse()
	}
	if z := s.zone(); z.holds(x.Name) {
		m.Authoritative = true
		z = s.withOffers(ctx, z, x, local)
		found := z.answer(m, x)
		if !found && z.mayAppear(x.Name) && s.ask(ctx) {
			z = s.withOffers(ctx, s.zone(), x, local)
			found = z.answer(m, x)
		}
		if found {
			s.Counters.Answered.Add(1)
		} else {
			s.Counters.Missing.Add(1)
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 {
			m.Ns = append(m.Ns, z.soa())
		}
		return m
	}
	// Others' questions are none of ours.
	if !local || len(s.cfg.Upstream) == 0 {
		return refuse()
	}
	return s.forward(ctx, q, m, udp)
}

// forward asks the other resolvers in turn.
func (s *Server) forward(ctx context.Context, q, m *dns.Msg, udp bool) *dns.Msg {
	m.Rcode = dns.RcodeServerFailure
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		s.Counters.Unanswered.Add(1)
		return m
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	ask := q.Copy()
	ask.Id = dns.Id()
	for _, upstream := range s.cfg.Upstream {
		c := &dns.Client{Net: "udp", UDPSize: maxUDP, Timeout: forwardTime / 2}
		if !udp {
			c.Net = "tcp"
		}
		r, _, err := c.ExchangeContext(ctx, ask, upstream)
		if err != nil || r.Id != ask.Id {
			s.log.Debug("resolver does not answer", "resolver", upstream, "err", err)
			continue
		}
		s.Counters.Forwarded.Add(1)
		r.Id = q.Id
		return r
	}
	s.Counters.Unanswered.Add(1)
	return m
}

// ask has the grid fetch its members, unless that was done just now, and reports
// whether it is worth another look.
func (s *Server) ask(ctx context.Context) bool {
	s.mu.Lock()
	now := time.Now()
	under := s.refresh
	if under == nil {
		if now.Sub(s.refreshed) < refreshTime {
			s.mu.Unlock()
			return false
		}
		under = make(chan struct{})
		s.refresh, s.refreshed = under, now
		go func() {
			ctx, cancel := context.WithTimeout(ctx, forwardTime)
			defer cancel()
			if _, err := s.cfg.Grid.Members(ctx); err != nil {
				s.log.Debug("members are not known", "err", err)
			}
			s.mu.Lock()
			s.refresh = nil
			s.mu.Unlock()
			close(under)
		}()
	}
	s.mu.Unlock()
	timer := time.NewTimer(refreshWait)
	defer timer.Stop()
	select {
	case <-under:
		return true
	case <-timer.C:
		return false
	}
}

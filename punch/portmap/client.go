package portmap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/punch"
)

// A Protocol is one that routers map ports by.
type Protocol string

const (
	PCP    Protocol = "pcp"
	NATPMP Protocol = "nat-pmp"
	UPnP   Protocol = "upnp-igd"
)

// protocols are all of them, the best first: PCP names the address with the
// mapping and tells its owner from others, UPnP may have no lifetimes.
var protocols = []Protocol{PCP, NATPMP, UPnP}

const (
	// leaseTime is the lifetime asked for (RFC 6886, section 3.3).
	leaseTime = 2 * time.Hour
	// maxLease is the longest lifetime believed: a router that says more is asked
	// again all the same (RFC 6887, section 15, has 24 hours).
	maxLease = 24 * time.Hour
	// patience is how long better protocols than the one that answered first
	// have left.
	patience = 250 * time.Millisecond
	// removeTime bounds what Close waits for the router.
	removeTime = time.Second
)

// Errors that [Status] tells.
var (
	ErrNoRouter = errors.New("portmap: no default router is known")
	// ErrNotOffered reports a router that speaks none of the protocols.
	ErrNotOffered = errors.New("portmap: the router offers no port mapping")
)

// Config configures a [Client].
type Config struct {
	// Route returns the default router and the transport address, not a
	// wildcard, at which it reaches the socket that is to be mapped. It is asked
	// each time anew. An invalid router: there is none now, and nothing is sent.
	Route func() (gateway netip.Addr, local netip.AddrPort)

	// Listen opens a UDP socket to ask the router from, on any port of local's
	// address. Nil: the system's.
	Listen func(local netip.Addr) (net.PacketConn, error)

	// Dial opens a TCP connection to the router, for UPnP. Nil: the system's,
	// from local's address.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Announcements opens a socket that hears what the router tells everybody
	// after a restart ([ListenAnnouncements] does). Nil: a restart shows at the
	// next renewal.
	Announcements func(local netip.Addr) (net.PacketConn, error)

	// Verify proves from outside that packets to the address arrive. It is asked
	// when the router has passed Filter's test, at most once for each mapping and
	// renewal that changes the address. An error refuses the mapping. Nil: nothing
	// is proved.
	Verify func(ctx context.Context, outside netip.AddrPort) error

	// Filter says which outside addresses can be public. Its zero value refuses
	// all private and reserved ones: a router that names one is behind another
	// NAT, or lies.
	Filter punch.Filter

	// Changed is told when Outside is another. It must not block, or call Close.
	Changed func()

	// Label is what UPnP routers show beside the mapping. Two clients of one
	// computer have different ones. Empty: "Instant Grid".
	Label string

	// Only lists the protocols to ask. Empty: all.
	Only []Protocol

	Logger *slog.Logger // nil: silent
}

// Counters count since the client's start.
type Counters struct {
	Made       uint64 // mappings, verified
	Renewed    uint64
	Failed     uint64 // times that no mapping was had or kept
	Refused    uint64 // outside addresses that the filter or Verify refused
	Restarts   uint64 // of the router, seen by its epoch
	Strangers  uint64 // packets from others than the router
	Malformed  uint64 // answers that made no sense, or were too long
	Leftovers  uint64 // permanent mappings of an earlier run removed
	Unremoved  uint64 // mappings that the router did not confirm to have removed
	Announcing uint64 // announcements heard from the router
}

type counters struct {
	made, renewed, failed, refused, restarts, strangers, malformed, leftovers, unremoved, announcing atomic.Uint64
}

// A Status is what a client has now.
type Status struct {
	Protocol Protocol       // empty: no mapping
	Outside  netip.AddrPort // verified
	Expires  time.Time      // zero: never
	Err      error          // why there is no mapping, or the last renewal failed
}

// A lease is a mapping as a router has granted it.
type lease struct {
	protocol Protocol
	outside  netip.AddrPort
	lifetime time.Duration // zero: for ever
	epoch    uint32
	hasEpoch bool
}

// A service is a protocol spoken with one router.
type service interface {
	// look asks whether the router speaks it, and for its outside address, which
	// PCP does not tell.
	look(ctx context.Context) (netip.Addr, error)
	// mapPort makes or renews the mapping, at the outside address wanted if it
	// is valid.
	mapPort(ctx context.Context, want netip.AddrPort) (lease, error)
	// unmap removes it.
	unmap(ctx context.Context, l lease) error
}

// A Client keeps one socket mapped.
type Client struct {
	cfg      Config
	log      *slog.Logger
	nonce    pcpNonce
	counters counters

	cancel  context.CancelFunc
	kick    chan struct{} // holds one: ask the router again
	running sync.WaitGroup

	// Of the loop:
	router   *router
	service  service // that made the mapping
	held     lease   // of service
	schedule schedule
	epoch    epoch
	ear      net.PacketConn // hears announcements; nil: none

	mu     sync.Mutex // guards what follows
	status Status
}

// Start begins to ask the router. It starts goroutines, which Close ends.
func Start(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, log: cfg.Logger, kick: make(chan struct{}, 1)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if _, err := rand.Read(c.nonce[:]); err != nil {
		return nil, fmt.Errorf("portmap: read nonce: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.running.Go(func() { c.run(ctx) })
	return c, nil
}

// Outside returns the verified outside address, or the zero value.
func (c *Client) Outside() netip.AddrPort { return c.Status().Outside }

// Status returns what there is now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Counters returns the counters.
func (c *Client) Counters() Counters {
	n := &c.counters
	return Counters{
		Made: n.made.Load(), Renewed: n.renewed.Load(), Failed: n.failed.Load(), Refused: n.refused.Load(), Restarts: n.restarts.Load(),
		Strangers: n.strangers.Load(), Malformed: n.malformed.Load(), Leftovers: n.leftovers.Load(), Unremoved: n.unremoved.Load(), Announcing: n.announcing.Load(),
	}
}

// Refresh asks the router again soon, as after a change of the network.
func (c *Client) Refresh() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Close removes the mapping, for which it waits up to a second, and ends the
// client. It may be called twice.
func (c *Client) Close() error {
	c.cancel()
	c.running.Wait()
	return nil
}

// run is the loop.
func (c *Client) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer c.stopListening()
	for {
		select {
		case <-ctx.Done():
			c.drop(context.Background())
			c.tell(Status{Err: net.ErrClosed})
			return
		case <-c.kick:
			c.schedule.kicked()
		case <-timer.C:
		}
		now := time.Now()
		if pause := c.schedule.early(now); pause > 0 {
			timer.Reset(pause)
			continue
		}
		c.schedule.begun(now)
		err := c.keep(ctx)
		now = time.Now()
		switch {
		case ctx.Err() != nil:
			continue
		case err == nil:
			c.schedule.kept(now, c.held.lifetime)
		default:
			c.counters.failed.Add(1)
			c.schedule.failed(now)
			c.lose(ctx, now, err)
		}
		timer.Reset(c.schedule.due.Sub(now))
	}
}

// keep makes the mapping or renews it.
func (c *Client) keep(ctx context.Context) error {
	r := c.cfg.router(&c.counters)
	if r == nil {
		c.forget()
		return ErrNoRouter
	}
	if c.router == nil || c.router.gateway != r.gateway || c.router.local != r.local {
		// Another network: what the old router has is out of reach, and expires.
		c.forget()
		c.router, c.epoch = r, epoch{}
		c.startListening(r)
	}
	if c.service != nil {
		l, err := c.service.mapPort(ctx, c.held.outside)
		if err == nil {
			return c.take(ctx, c.service, l)
		}
		if time.Now().Before(c.schedule.expires) && errors.Is(err, ErrNoAnswer) {
			return err // the router may come back before the mapping ends
		}
		c.log.Info("port mapping lost", "protocol", c.held.protocol, "err", err)
	}
	want := c.held.outside
	var failures error
	for _, s := range c.cfg.offered(ctx, c.router, c.nonce) {
		l, err := s.mapPort(ctx, want)
		if err == nil {
			if err = c.take(ctx, s, l); err == nil {
				return nil
			}
		}
		failures = errors.Join(failures, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if failures == nil {
		return ErrNotOffered
	}
	return failures
}

// take checks what the router has granted and makes it ours; what it refuses is
// removed.
func (c *Client) take(ctx context.Context, s service, l lease) error {
	now := time.Now()
	restarted := l.hasEpoch && !c.epoch.follow(l.epoch, now)
	if restarted {
		c.counters.restarts.Add(1)
	}
	was := c.Status().Outside
	err := c.verify(ctx, l, was.IsValid() && was == l.outside && !restarted)
	if err != nil {
		c.counters.refused.Add(1)
		c.service, c.held = s, l
		c.drop(ctx)
		return err
	}
	if was == l.outside {
		c.counters.renewed.Add(1)
	} else {
		c.counters.made.Add(1)
		c.log.Info("port mapped", "protocol", l.protocol, "outside", l.outside, "lifetime", l.lifetime)
	}
	l.lifetime = min(l.lifetime, maxLease)
	c.service, c.held = s, l
	st := Status{Protocol: l.protocol, Outside: l.outside}
	if l.lifetime > 0 {
		st.Expires = now.Add(l.lifetime)
	}
	c.tell(st)
	return nil
}

// An AddressError is an outside address that a router has named and that is not
// used.
type AddressError struct {
	Protocol Protocol
	Outside  netip.AddrPort
	Err      error
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("portmap: the router names %v by %s, which is not used: %v", e.Outside, e.Protocol, e.Err)
}
func (e *AddressError) Unwrap() error { return e.Err }

var errNoLifetime = errors.New("the mapping has no lifetime")

// verify returns why a granted mapping is of no use. known says that the same
// address was verified before and nothing speaks against it since.
func (c *Client) verify(ctx context.Context, l lease, known bool) error {
	if l.lifetime <= 0 && l.protocol != UPnP {
		return &AddressError{l.protocol, l.outside, errNoLifetime}
	}
	if err := public(c.cfg.Filter, l.outside); err != nil {
		return &AddressError{l.protocol, l.outside, err}
	}
	if known || c.cfg.Verify == nil {
		return nil
	}
	if err := c.cfg.Verify(ctx, l.outside); err != nil {
		return &AddressError{l.protocol, l.outside, err}
	}
	return nil
}

// errPrivate says what a private outside address means.
var errPrivate = errors.New("it is not a public address: the router is behind another NAT")

// public returns why an address cannot be one outside every NAT.
func public(f punch.Filter, a netip.AddrPort) error {
	// Our own network and router do not make a private address public.
	f.Own, f.Gateways = nil, nil
	if _, err := f.Check(a, false); err != nil {
		if a.Addr().IsPrivate() || carrierGrade.Contains(a.Addr()) {
			return errPrivate
		}
		return err
	}
	return nil
}

var carrierGrade = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// lose keeps the mapping through a failed renewal until it expires.
func (c *Client) lose(ctx context.Context, now time.Time, err error) {
	st := c.Status()
	if c.service != nil && errors.Is(err, ErrNoAnswer) && now.Before(c.schedule.expires) {
		st.Err = err
		c.tell(st)
		return
	}
	if st.Err == nil || st.Err.Error() != err.Error() {
		c.log.Info("no port mapping", "err", err)
	}
	c.forget()
	c.tell(Status{Err: err})
}

// drop removes the mapping from the router.
func (c *Client) drop(ctx context.Context) {
	if c.service == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	if err := c.service.unmap(ctx, c.held); err != nil {
		c.counters.unremoved.Add(1)
		c.log.Info("port mapping not removed", "protocol", c.held.protocol, "outside", c.held.outside, "err", err)
	}
	c.forget()
}

// forget has no mapping, whatever the router has.
func (c *Client) forget() {
	c.service, c.held = nil, lease{}
	c.schedule.expires = time.Time{}
}

// tell sets the status, and tells of another address.
func (c *Client) tell(st Status) {
	c.mu.Lock()
	changed := c.status.Outside != st.Outside
	c.status = st
	c.mu.Unlock()
	if changed && c.cfg.Changed != nil {
		c.cfg.Changed()
	}
}

// router returns the router to ask now, or nil.
func (cfg *Config) router(n *counters) *router {
	gateway, local := cfg.Route()
	if !gateway.Is4() || !local.Addr().Is4() || local.Addr().IsUnspecified() || local.Port() == 0 {
		return nil
	}
	r := &router{gateway: gateway, local: local, label: cfg.Label, dial: cfg.Dial, counters: n}
	if r.label == "" {
		r.label = "Instant Grid"
	}
	r.listen = func() (net.PacketConn, error) {
		if cfg.Listen != nil {
			return cfg.Listen(local.Addr())
		}
		return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	}
	if r.dial == nil {
		r.dial = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local.Addr().AsSlice()}}).DialContext
	}
	return r
}

// speak returns a protocol with a router.
func (r *router) speak(p Protocol, nonce pcpNonce) service {
	switch p {
	case PCP:
		return &pcp{r: r, nonce: nonce}
	case NATPMP:
		return natpmp{r}
	default:
		return &upnp{r: r}
	}
}

// An Offer is what a router says by one protocol.
type Offer struct {
	Protocol Protocol
	Outside  netip.Addr // invalid: it does not tell, as by PCP
	Err      error      // nil: it speaks the protocol

	rank    int
	service service
}

// looks asks by all protocols at once; the channel gets an offer from each.
func (cfg *Config) looks(ctx context.Context, r *router, nonce pcpNonce) (offers <-chan Offer, count int) {
	asked := cfg.Only
	if len(asked) == 0 {
		asked = protocols
	}
	c := make(chan Offer, len(asked))
	for i, p := range asked {
		s := r.speak(p, nonce)
		go func() {
			o := Offer{Protocol: p, rank: i, service: s}
			o.Outside, o.Err = s.look(ctx)
			c <- o
		}()
	}
	return c, len(asked)
}

// offered returns the protocols that the router speaks, the best first. When one
// has answered, the others have little time left.
func (cfg *Config) offered(ctx context.Context, r *router, nonce pcpNonce) []service {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	offers, count := cfg.looks(ctx, r, nonce)
	found := make([]service, count)
	var late <-chan time.Time
	for n := 0; n < count; n++ {
		select {
		case o := <-offers:
			if o.Err != nil {
				continue
			}
			if found[o.rank] = o.service; late == nil {
				late = time.After(patience)
			}
			continue
		case <-late:
			cancel()
			// Every goroutine ends before we do, and tells so.
			for ; n < count; n++ {
				<-offers
			}
		}
	}
	var list []service
	for _, s := range found {
		if s != nil {
			list = append(list, s)
		}
	}
	return list
}

// Look asks the router what it offers by each protocol, and makes no mapping. It
// takes up to four seconds. Without a router it returns nothing.
func Look(ctx context.Context, cfg Config) ([]Offer, Counters) {
	c := &Client{cfg: cfg}
	r := cfg.router(&c.counters)
	if r == nil {
		return nil, Counters{}
	}
	offers, count := cfg.looks(ctx, r, pcpNonce{})
	list := make([]Offer, count)
	for range count {
		o := <-offers
		if o.Err == nil && o.Outside.IsValid() {
			// A port that can be anyone's: only the address is judged.
			if err := public(cfg.Filter, netip.AddrPortFrom(o.Outside, 4096)); err != nil {
				o.Err = &AddressError{o.Protocol, netip.AddrPortFrom(o.Outside, 0), err}
			}
		}
		list[o.rank] = o
	}
	return list, c.Counters()
}

// startListening hears the router's announcements, where that can be done.
func (c *Client) startListening(r *router) {
	c.stopListening()
	if c.cfg.Announcements == nil {
		return
	}
	pc, err := c.cfg.Announcements(r.local.Addr())
	if err != nil {
		return // a restart shows at the next renewal
	}
	c.ear = pc
	c.running.Go(func() {
		buf := make([]byte, pcpMaxLen)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if addrPortOf(from).Addr() != r.gateway || !isAnnouncement(buf[:n]) {
				c.counters.strangers.Add(1)
				continue
			}
			c.counters.announcing.Add(1)
			c.Refresh()
		}
	})
}

func (c *Client) stopListening() {
	if c.ear != nil {
		c.ear.Close()
		c.ear = nil
	}
}

// isAnnouncement reports whether b tells that the router has restarted or has
// another address (RFC 6887, section 14.1; RFC 6886, section 3.2.1). Anybody on
// the local network can write one; it makes us ask the router, no more.
func isAnnouncement(b []byte) bool {
	if r, err := parsePCP(b); err == nil {
		return r.opcode == pcpAnnounce && r.result == pcpSuccess
	}
	r, err := parseNATPMP(b)
	return err == nil && r.opcode == natpmpAddress
}

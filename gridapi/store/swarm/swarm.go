package swarm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/store/chunk"
	"github.com/instantgrid/instantgrid/gridapi/store/internal/hrw"
)

// A Member is one of the grid.
type Member struct {
	Name string
	Site string // members that share a LAN have equal ones; empty: a site of its own
}

// Config is how a Swarm works. Self, Holdings, Dial and Members are needed.
type Config struct {
	// Self is our own name among the members.
	Self string
	// Holdings are what we hold. A chunk.Stager among them is used as one:
	// then what was fetched survives a crash once Fetch has returned.
	Holdings chunk.Holdings
	// Dial connects to a member's Swarm.
	Dial func(ctx context.Context, member string) (net.Conn, error)
	// Members returns who is in the grid now, ourselves included. It is called
	// often and must not block.
	Members func() []Member
	// Identify tells which member an accepted connection comes from. Nil
	// believes what the connection says, which suits tests.
	Identify func(net.Conn) (member string, err error)
	// Keeper decides on chunks that others want kept here. Nil keeps none.
	Keeper Keeper
	// Peers is how many members are connected to for a fetch, at most 48: our
	// site's first. Zero means 48.
	Peers int
	// NotFoundAfter is how long a fetch whose chunks nobody holds goes on.
	// Zero means 5 s.
	NotFoundAfter time.Duration
	// GiveUpAfter is how long a fetch goes on without any chunk. Zero means
	// 2 min; negative, for ever.
	GiveUpAfter time.Duration
	// Plain has everybody take everything from its source, as remote calls
	// with the data in their arguments would: for comparison.
	Plain bool
	// Logger gets what happens to connections. Nil logs nothing.
	Logger *slog.Logger
}

// Limits of a Swarm: guesses.
const (
	mostPeers    = 48
	maxConns     = 512
	openLists    = 4 // of one fetch
	maxFetches   = 4 // at a time; more wait
	maxCollects  = 4 // lists that are collected for others at a time
	banFor       = 10 * time.Minute
	dialTimeout  = 20 * time.Second
	helloTimeout = 10 * time.Second
	freshFor     = 5 * time.Second // two connections dialled so shortly after one another crossed
	membersEvery = 2 * time.Second
)

// A Swarm serves chunks and fetches others.
type Swarm struct {
	cfg     Config
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	kick    chan struct{}
	fetches chan struct{} // a slot each
	greets  chan struct{} // connections that have not said HELLO

	countMu sync.Mutex
	io      Counters

	mu         sync.Mutex
	plan       *plan
	planCounts Counters
	conns      map[string]*conn
	dials      map[string]*dialing
	banned     map[string]time.Time
	members    []Member
	sites      map[string]string
	refreshed  time.Time
	subs       map[chunk.ID][]sub
	lists      map[uint32]*list
	listNumber uint32
	running    map[*fetch]struct{}
	waiting    map[chunk.ID][]*fetch
	collects   int
	listeners  map[net.Listener]struct{}
	closing    bool
}

// A sub is a peer's wish to hear of a chunk.
type sub struct {
	c     *conn
	list  uint32
	index uint16
}

// A list is a WANT of ours.
type list struct {
	number uint32
	ids    []chunk.ID
	left   int
	f      *fetch
}

// dialing is what became of the last dials to a member.
type dialing struct {
	under  bool
	done   chan struct{} // closed when this dial has ended
	failed int
	after  time.Time // not before
}

// New returns a Swarm, which the caller closes.
func New(cfg Config) *Swarm {
	if cfg.Peers <= 0 || cfg.Peers > mostPeers {
		cfg.Peers = mostPeers
	}
	cfg.NotFoundAfter = cmp.Or(cfg.NotFoundAfter, 5*time.Second)
	cfg.GiveUpAfter = cmp.Or(cfg.GiveUpAfter, 2*time.Minute)
	s := &Swarm{
		cfg: cfg, log: cfg.Logger, kick: make(chan struct{}, 1),
		fetches: make(chan struct{}, maxFetches), greets: make(chan struct{}, 64),
		conns: make(map[string]*conn), dials: make(map[string]*dialing), banned: make(map[string]time.Time),
		sites: make(map[string]string), subs: make(map[chunk.ID][]sub), lists: make(map[uint32]*list),
		running: make(map[*fetch]struct{}), waiting: make(map[chunk.ID][]*fetch), listeners: make(map[net.Listener]struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.refresh(time.Now())
	s.plan = newPlan(planConfig{
		self: cfg.Self, site: s.sites[cfg.Self], plain: cfg.Plain,
		settle: 2 * time.Second, stall: 20 * time.Second, patience: 30 * time.Second,
		horizon: time.Second, maxFlight: 32, falseHaves: 16,
	}, rand.New(rand.NewPCG(uint64(hrw.NameOf(cfg.Self)), 1)), &s.planCounts)
	s.wg.Go(s.run)
	return s
}

// Close ends all connections and fetches, and returns once that is done.
func (s *Swarm) Close() error {
	s.mu.Lock()
	s.closing = true
	conns := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		conns = append(conns, c)
	}
	for ln := range s.listeners {
		ln.Close()
	}
	s.mu.Unlock()
	s.cancel()
	for _, c := range conns {
		c.fail(ErrClosed)
	}
	s.wg.Wait()
	return nil
}

// Serve takes connections from ln until the Swarm or ln is closed. It returns
// nil in the first case.
func (s *Swarm) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		ln.Close()
		return ErrClosed
	}
	s.listeners[ln] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	for {
		nc, err := ln.Accept()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.listeners, ln)
			if s.closing {
				return nil
			}
			return err
		}
		select {
		case s.greets <- struct{}{}:
		default:
			s.count(func(n *Counters) { n.Refused++ })
			nc.Close()
			continue
		}
		s.wg.Go(func() {
			c := newConn(s, nc, false)
			err := s.greet(c, "")
			<-s.greets
			if err != nil {
				s.log.Debug("no connection with a member", "from", nc.RemoteAddr(), "error", err)
				c.fail(err)
				return
			}
			s.attend(c)
		})
	}
}

// greet exchanges HELLO. member is who we dialled.
func (s *Swarm) greet(c *conn, member string) error {
	stop := context.AfterFunc(s.ctx, func() { c.nc.Close() })
	defer stop()
	late := time.AfterFunc(helloTimeout, func() { c.nc.Close() })
	defer late.Stop()
	if member == "" && s.cfg.Identify != nil {
		var err error
		if member, err = s.cfg.Identify(c.nc); err != nil {
			return err
		}
	}
	// Both sides send first; on a connection without a buffer that wants a
	// goroutine.
	sent := make(chan error, 1)
	s.wg.Go(func() {
		_, err := c.nc.Write(appendFrame(nil, frameHello, hello{protocolVersion, s.cfg.Self}.appendBody))
		sent <- err
	})
	k, n, err := readHeader(c.r)
	if err != nil {
		return err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return err
	}
	if k == frameBye {
		x, err := parseBye(body)
		if err != nil {
			return err
		}
		return &PeerError{Member: member, Reason: "it said: " + cleanText(x.text)}
	}
	if k != frameHello {
		return fmt.Errorf("%w: frame %#x before HELLO", errMalformed, byte(k))
	}
	h, err := parseHello(body)
	if err != nil {
		return err
	}
	if h.version != protocolVersion {
		return fmt.Errorf("swarm: member %s speaks version %d of the protocol, and we speak %d", member, h.version, protocolVersion)
	}
	c.name = cmp.Or(member, h.name)
	if c.name == "" || c.name == s.cfg.Self {
		return errors.New("swarm: a connection with ourselves")
	}
	return <-sent
}

// attend runs a connection that has been greeted to its end.
func (s *Swarm) attend(c *conn) {
	if s.register(c) {
		s.converse(c)
	}
}

// converse runs a connection that has been registered to its end.
func (s *Swarm) converse(c *conn) {
	s.wg.Go(c.write)
	err := c.read()
	var said *PeerError
	switch {
	case errors.Is(err, errMalformed):
		s.count(func(n *Counters) { n.Malformed++ })
		c.refuse(byeMalformed, err.Error())
		<-c.closed
	case errors.As(err, &said) && c.ending.Load():
		<-c.closed
	default:
		c.fail(err)
	}
	s.gone(c, err)
}

// register makes c the connection with its peer, unless there is a better one.
func (s *Swarm) register(c *conn) bool {
	now := time.Now()
	s.refresh(now) // it may be new
	s.mu.Lock()
	defer s.mu.Unlock()
	refuse := func(reason byeReason, text string) bool {
		// Nobody runs it: a short frame fits into any buffer, or is lost.
		s.wg.Go(func() {
			t := time.AfterFunc(time.Second, func() { c.nc.Close() })
			defer t.Stop()
			c.nc.Write(appendFrame(nil, frameBye, bye{reason, text}.appendBody))
			c.fail(&PeerError{Member: c.name, Reason: text})
		})
		return false
	}
	if s.closing {
		c.fail(ErrClosed)
		return false
	}
	if now.Before(s.banned[c.name]) {
		s.count(func(n *Counters) { n.Banned++ })
		return refuse(byeBanned, "you sent wrong chunks")
	}
	old := s.conns[c.name]
	if old == nil && len(s.conns) >= maxConns {
		s.count(func(n *Counters) { n.Refused++ })
		return refuse(byeFlood, "too many connections")
	}
	if old != nil {
		// Whoever dials knows of no connection. When both dialled in the same
		// moment, the one that the lesser name dialled stays.
		if old.dialed != c.dialed && now.Sub(old.born) < freshFor && old.dialed == (s.cfg.Self < c.name) {
			return refuse(byeSecond, "there is another connection between us")
		}
		s.detach(old)
		old.refuse(byeSecond, "there is another connection between us")
	}
	c.site = s.sites[c.name]
	c.local.Store(c.site != "" && c.site == s.plan.cfg.site)
	s.conns[c.name] = c
	c.plan = s.plan.join(now, c.name, c.site)
	for _, l := range s.lists {
		s.tell(now, c, l)
	}
	s.step(now)
	return true
}

// detach takes c out of all that is known.
func (s *Swarm) detach(c *conn) {
	if s.conns[c.name] != c {
		return
	}
	delete(s.conns, c.name)
	s.plan.leave(c.name)
	for n := range c.lists {
		s.unsubscribe(c, n)
	}
}

// gone ends what c was used for.
func (s *Swarm) gone(c *conn, err error) {
	s.log.Debug("connection with a member ended", "member", c.name, "error", err)
	now := time.Now()
	s.mu.Lock()
	s.detach(c)
	s.step(now)
	s.mu.Unlock()
	c.mu.Lock()
	asked := c.asked
	c.asked = make(map[uint32]*request)
	c.mu.Unlock()
	for _, r := range asked {
		if r.done != nil {
			r.done(nil, codeLost)
		}
	}
	notify(s.kick)
}

func (s *Swarm) unsubscribe(c *conn, number uint32) {
	for _, id := range c.lists[number] {
		left := slices.DeleteFunc(s.subs[id], func(x sub) bool { return x.c == c && x.list == number })
		if len(left) == 0 {
			delete(s.subs, id)
		} else {
			s.subs[id] = left
		}
	}
	delete(c.lists, number)
}

func (s *Swarm) count(do func(*Counters)) {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	do(&s.io)
}

// Counters returns what was counted so far.
func (s *Swarm) Counters() Counters {
	s.mu.Lock()
	p := s.planCounts
	s.mu.Unlock()
	s.countMu.Lock()
	defer s.countMu.Unlock()
	n := s.io
	n.Reasked, n.Withdrawn, n.Stalls, n.FalseHaves = p.Reasked, p.Withdrawn, p.Stalls, p.FalseHaves
	return n
}

// Peers returns the members that are connected, by name.
func (s *Swarm) Peers() []PeerCounters {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]PeerCounters, 0, len(s.conns))
	for _, c := range s.conns {
		x := PeerCounters{Member: c.name, Site: c.site, Local: c.local.Load(), BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load()}
		if q := s.plan.byName[c.name]; q != nil {
			x.InFlight, x.RateBytesSec = len(q.flight), uint64(q.rate)
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b PeerCounters) int { return cmp.Compare(a.Member, b.Member) })
	return out
}

// run watches over fetches: it dials, and lets time pass for the plan.
func (s *Swarm) run() {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		select {
		case <-s.kick:
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
		now := time.Now()
		s.mu.Lock()
		due := len(s.running) > 0 && now.Sub(s.refreshed) >= membersEvery
		s.mu.Unlock()
		if due {
			s.refresh(now)
		}
		s.mu.Lock()
		s.plan.advance(now)
		s.maintain(now)
		s.expire(now)
		s.step(now)
		busy := len(s.running) > 0
		s.mu.Unlock()
		if busy {
			timer.Reset(tick)
		} else {
			timer.Stop()
		}
	}
}

// refresh asks anew who is there.
func (s *Swarm) refresh(now time.Time) {
	members := s.cfg.Members()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshLocked(now, members)
}

func (s *Swarm) refreshLocked(now time.Time, members []Member) {
	s.members, s.refreshed = members, now
	clear(s.sites)
	for _, m := range members {
		s.sites[m.Name] = m.Site
	}
	if s.plan != nil {
		s.plan.move(s.cfg.Self, s.sites[s.cfg.Self])
		for _, m := range members {
			s.plan.move(m.Name, m.Site)
		}
	}
	for _, c := range s.conns {
		c.site = s.sites[c.name]
		c.local.Store(c.site != "" && c.site == s.sites[s.cfg.Self])
	}
	for name, t := range s.banned {
		if now.After(t) {
			delete(s.banned, name)
		}
	}
}

// maintain dials the members that the fetches need.
func (s *Swarm) maintain(now time.Time) {
	if len(s.running) == 0 || s.closing {
		return
	}
	need := make(map[string]bool)
	for f := range s.running {
		for _, name := range s.targets(f) {
			need[name] = true
		}
	}
	for name := range need {
		if s.conns[name] == nil {
			s.dial(now, name)
		}
	}
	for _, l := range s.lists {
		for name := range need {
			if c := s.conns[name]; c != nil {
				s.tell(now, c, l)
			}
		}
	}
}

// targets returns the members that f is about: our site's first, then those
// that a hash prefers, so that a large grid is not asked whole.
func (s *Swarm) targets(f *fetch) (names []string) {
	if f.from != nil {
		return s.collectors(f)
	}
	own := s.plan.cfg.site
	var others []string
	for _, m := range s.members {
		switch {
		case m.Name == s.cfg.Self:
		case own != "" && m.Site == own:
			names = append(names, m.Name)
		case !f.local:
			others = append(others, m.Name)
		}
	}
	if len(names)+len(others) > s.cfg.Peers {
		prefer := func(list []string) {
			slices.SortFunc(list, func(a, b string) int {
				if x, y := slices.Contains(f.hints, a), slices.Contains(f.hints, b); x != y {
					if x {
						return -1
					}
					return 1
				}
				return cmp.Compare(hrw.Score(f.key, hrw.NameOf(b)), hrw.Score(f.key, hrw.NameOf(a)))
			})
		}
		prefer(names)
		prefer(others)
	}
	names = append(names, others...)
	return names[:min(len(names), s.cfg.Peers)]
}

// dial connects to a member, unless that is under way or failed just now.
func (s *Swarm) dial(now time.Time, name string) *dialing {
	d := s.dials[name]
	if d == nil {
		d = &dialing{}
		s.dials[name] = d
	}
	if d.under || now.Before(d.after) || now.Before(s.banned[name]) || s.closing {
		return d
	}
	d.under, d.done = true, make(chan struct{})
	s.plan.expect(name, s.sites[name])
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
		nc, err := s.cfg.Dial(ctx, name)
		cancel()
		var c *conn
		if err == nil {
			c = newConn(s, nc, true)
			if err = s.greet(c, name); err != nil {
				c.fail(err)
			}
		}
		now := time.Now()
		s.mu.Lock()
		if err != nil {
			d.failed++
			d.after = now.Add(time.Second << min(d.failed-1, 5))
			if s.conns[name] == nil {
				s.plan.leave(name)
			}
			s.log.Debug("cannot connect to a member", "member", name, "error", err)
		} else {
			d.failed, d.after = 0, now.Add(time.Second)
		}
		s.mu.Unlock()
		end := func() {
			s.mu.Lock()
			d.under = false
			close(d.done)
			s.step(time.Now())
			s.mu.Unlock()
		}
		if err != nil {
			end()
			return
		}
		if s.register(c) {
			s.wg.Go(func() { s.converse(c) })
		}
		end()
	})
	return d
}

// step lets the plan decide and does what it wants.
func (s *Swarm) step(now time.Time) {
	s.plan.dispatch(now)
	for _, d := range s.plan.take() {
		c := s.conns[d.peer]
		if c == nil {
			continue // it has just gone; the plan knows
		}
		switch d.kind {
		case askPeer:
			c.askPlanned(d.id)
		case cancelAsk:
			c.cancel(d.id)
		case dropPeer:
			s.banned[c.name] = now.Add(banFor)
			s.log.Warn("a member says that it holds what it does not", "member", c.name)
			c.refuse(byePoison, "you do not hold what you announce")
		}
	}
}

// tell sends a list to a peer that it is for.
func (s *Swarm) tell(now time.Time, c *conn, l *list) {
	if c.sent[l.number] || !slices.Contains(s.targets(l.f), c.name) {
		return
	}
	c.sent[l.number] = true
	c.send(frameWant, want{l.number, l.f.from != nil, l.ids}.appendBody)
	if l.f.from != nil {
		// It is going to collect them.
		for _, id := range l.ids {
			s.plan.claims(now, c.name, id)
		}
	}
}

// wantedBy notes a list of a peer, and answers which we hold.
func (s *Swarm) wantedBy(c *conn, w want) error {
	now := time.Now()
	var claims []uint16
	s.mu.Lock()
	if s.conns[c.name] != c {
		s.mu.Unlock()
		return net.ErrClosed
	}
	if _, twice := c.lists[w.list]; twice || len(c.lists) >= maxLists {
		s.mu.Unlock()
		s.count(func(n *Counters) { n.Floods++ })
		return fmt.Errorf("%w: too many lists, or one twice", errMalformed)
	}
	c.lists[w.list] = w.ids
	for i, id := range w.ids {
		s.subs[id] = append(s.subs[id], sub{c, w.list, uint16(i)})
		s.plan.wants(now, c.name, id)
		if s.plan.claim(id) {
			claims = append(claims, uint16(i))
		}
	}
	s.mu.Unlock()
	if len(claims) > 0 {
		c.send(frameClaim, indices{w.list, claims}.appendBody)
	}
	bitmap := make([]byte, (len(w.ids)+7)/8)
	var missing []chunk.ID
	for i, id := range w.ids {
		if s.cfg.Holdings.Has(id) {
			bitmap[i/8] |= 1 << (i % 8)
		} else {
			missing = append(missing, id)
		}
	}
	c.send(frameHeld, held{w.list, bitmap}.appendBody)
	s.mu.Lock()
	s.step(now)
	s.mu.Unlock()
	if w.collect {
		s.collect(c, w.list, missing)
	}
	return nil
}

// forgottenBy ends a list of a peer.
func (s *Swarm) forgottenBy(c *conn, number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range c.lists[number] {
		s.plan.wantsNot(c.name, id)
	}
	s.unsubscribe(c, number)
	s.step(time.Now())
}

// heldBy notes which chunks of a list of ours a peer holds.
func (s *Swarm) heldBy(c *conn, h held) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lists[h.list]
	if l == nil || s.conns[c.name] != c {
		return nil // forgotten since
	}
	if len(h.bitmap) != (len(l.ids)+7)/8 {
		return fmt.Errorf("%w: HELD of another length", errMalformed)
	}
	for i, id := range l.ids {
		s.plan.answer(now, c.name, id, h.bitmap[i/8]&(1<<(i%8)) != 0)
	}
	s.step(now)
	return nil
}

// announced notes what a peer now holds, or is fetching.
func (s *Swarm) announced(c *conn, k frameKind, x indices) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lists[x.list]
	if l == nil || s.conns[c.name] != c {
		return nil // forgotten since
	}
	if int(x.index[len(x.index)-1]) >= len(l.ids) {
		return fmt.Errorf("%w: an index beyond the list", errMalformed)
	}
	for _, i := range x.index {
		if k == frameHave {
			s.plan.has(now, c.name, l.ids[i])
		} else {
			s.plan.claims(now, c.name, l.ids[i])
		}
	}
	s.step(now)
	return nil
}

// endedBy notes that a peer will get no more of a list of ours.
func (s *Swarm) endedBy(c *conn, number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lists[number]; l != nil && s.conns[c.name] == c {
		for _, id := range l.ids {
			s.plan.disclaim(c.name, id)
		}
		s.step(time.Now())
	}
}

// Announce tells the members that wait for them that we now hold these chunks.
// Chunks that came through the Swarm need no announcement.
func (s *Swarm) Announce(ids ...chunk.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.announce(id)
		s.settle(time.Now(), id)
	}
	s.step(time.Now())
}

func (s *Swarm) announce(id chunk.ID) {
	for _, x := range s.subs[id] {
		x.c.have(x.list, x.index)
	}
}

// began notes that a chunk begins to come.
func (s *Swarm) began(c *conn, id chunk.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.started(time.Now(), c.name, id)
}

// progress notes that bytes of a chunk have come.
func (s *Swarm) progress(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.data(time.Now(), c.name)
}

// missed notes that a chunk does not come.
func (s *Swarm) missed(c *conn, id chunk.ID, why code) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.name] == c {
		s.plan.missed(now, c.name, id, why)
		s.step(now)
	}
}

// receive takes a chunk that came whole. Its error ends the connection.
func (s *Swarm) receive(c *conn, r *request, sealed []byte) error {
	if err := chunk.Verify(r.id, sealed); err != nil {
		s.count(func(n *Counters) { n.Poisoned++ })
		s.mu.Lock()
		s.banned[c.name] = time.Now().Add(banFor)
		s.mu.Unlock()
		s.log.Warn("a member sent a wrong chunk", "member", c.name, "chunk", r.id.String())
		c.refuse(byePoison, "you sent a wrong chunk")
		if r.done != nil {
			r.done(nil, codeWrong)
		}
		return &PeerError{Member: c.name, Reason: "it sent a wrong chunk", Err: err}
	}
	c.bytesIn.Add(uint64(len(sealed)))
	s.count(func(n *Counters) {
		n.ChunksIn++
		if c.local.Load() {
			n.LANBytesIn += uint64(len(sealed))
		} else {
			n.WANBytesIn += uint64(len(sealed))
		}
	})
	if r.done != nil {
		r.done(sealed, codeDone)
	} else {
		s.store(c, r.id, sealed)
	}
	return nil
}

// store keeps a chunk that a fetch wants.
func (s *Swarm) store(c *conn, id chunk.ID, sealed []byte) {
	var err error
	if s.cfg.Holdings.Has(id) {
		s.count(func(n *Counters) { n.Wasted += uint64(len(sealed)) })
	} else if stager, is := s.cfg.Holdings.(interface {
		StageVerified(chunk.ID, []byte) error
	}); is { // a second SHA-256 would cost as much as all the rest
		err = stager.StageVerified(id, sealed)
	} else if stager, is := s.cfg.Holdings.(chunk.Stager); is {
		err = stager.Stage(id, sealed)
	} else {
		err = s.cfg.Holdings.Put(id, sealed)
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.arrived(now, c.name, id, len(sealed))
	if err != nil {
		for _, f := range slices.Clone(s.waiting[id]) {
			f.fail(fmt.Errorf("swarm: keep chunk %v: %w", id, err))
		}
		s.step(now)
		return
	}
	s.announce(id)
	s.settle(now, id)
	s.step(now)
}

// served counts a chunk that was sent.
func (s *Swarm) served(c *conn, size int) {
	c.bytesOut.Add(uint64(size))
	s.count(func(n *Counters) {
		n.ChunksOut++
		if c.local.Load() {
			n.LANBytesOut += uint64(size)
		} else {
			n.WANBytesOut += uint64(size)
		}
	})
}

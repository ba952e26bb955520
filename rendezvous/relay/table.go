package relay

import (
	"bytes"
	"net"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Limits bound what agents may hold. Zero fields take the default.
type Limits struct {
	Registrations          int           // in all; zero: 16,384
	RegistrationsPerPrefix int           // of one /24 or /56; zero: 1024
	Channels               int           // in all; zero: 65,536
	ChannelsPerPeer        int           // opened by one peer; zero: 64
	IncomingPerPeer        int           // opened toward one peer; zero: 256
	Lifetime               time.Duration // of a registration; zero: 60 s
	RelayRate              int64         // bytes a second relayed for one peer; zero: no limit
	TotalRate              int64         // bytes a second relayed in all, in equal shares; zero: no limit
	RelayQuota             int64         // bytes relayed for one peer in 24 h; zero: no limit
	GuestRate              int64         // for one guest, both directions; zero: 12.5 MB/s (100 Mbit/s); negative: no limit
	GuestQuota             int64         // bytes for one guest, both directions; zero: 1 GiB; negative: no limit
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, byDefault int) {
		if *v <= 0 {
			*v = byDefault
		}
	}
	set(&l.Registrations, 16_384)
	set(&l.RegistrationsPerPrefix, 1024)
	set(&l.Channels, 65_536)
	set(&l.ChannelsPerPeer, 64)
	set(&l.IncomingPerPeer, 256)
	if l.Lifetime <= 0 {
		l.Lifetime = 60 * time.Second
	}
	l.RelayRate, l.TotalRate, l.RelayQuota = max(l.RelayRate, 0), max(l.TotalRate, 0), max(l.RelayQuota, 0)
	switch {
	case l.GuestRate == 0:
		l.GuestRate = 100_000_000 / 8
	case l.GuestRate < 0:
		l.GuestRate = 0
	}
	switch {
	case l.GuestQuota == 0:
		l.GuestQuota = 1 << 30
	case l.GuestQuota < 0:
		l.GuestQuota = 1 << 62
	}
	return l
}

const (
	consentDatagrams = 8                // pass toward a target that has not answered (ri2n.md, section 7)
	consentTime      = 15 * time.Second // until an unanswered channel is closed: a handshake and half of one
	channelIdle      = 2 * time.Minute  // eight keepalives of a standby path
	channelsPerPair  = 16               // of one source to one target, so that few cannot take all places
	maxOutbox        = 512              // messages; an agent that reads none of them is closed
	opensPerSecond   = 20               // by one agent, after a burst of its channels
	accountMemory    = time.Minute      // a peer cannot refill its allowance by coming back
)

// A DropReason says why a datagram went no further.
type DropReason int

const (
	dropMalformed DropReason = iota
	dropUnregistered
	dropUnknownChannel
	dropHoldFull
	dropHoldExpired
	dropNoConsent
	dropRate
	dropQuota
	dropTooLarge
	dropQueue // the target's session took no more
	dropReasons
)

// DropReasons is how many reasons there are.
const DropReasons = int(dropReasons)

var dropReasonNames = [DropReasons]string{
	"malformed", "unregistered", "unknown-channel", "hold-full", "hold-expired",
	"no-consent", "rate", "quota", "too-large", "queue",
}

// String returns the reason's word in metrics.
func (d DropReason) String() string { return dropReasonNames[d] }

// Counters count for ever.
type Counters struct {
	Registrations     uint64 // new ones, not Refreshes
	Refreshes         uint64
	Expired           uint64
	ChannelsOpened    uint64
	ChannelsRefused   [256]uint64 // by reason
	ChannelsClosed    [256]uint64 // by reason
	SessionsClosed    [256]uint64 // by us, by reason
	RelayedDatagrams  uint64
	RelayedBytes      uint64
	GuestBytes        uint64
	Deposits, Admits  uint64
	DepositsRefused   uint64
	AdmitsRefused     uint64
	DatagramsDropped  [DropReasons]uint64
	PrefixRefused     uint64 // strangers above the bound of their prefix
	Shown             uint64 // addresses shown to the other end of a channel
	ShowsDropped      uint64 // too often, or on no channel in use
	HandshakesRefused uint64 // sessions above the limits
}

// An account meters one peer, over all its sessions.
type account struct {
	limiter          *rate.Limiter // nil: no limit
	part             *rate.Limiter // its share of the rate of all; nil: no limit
	offered          int64         // bytes that it sent since the last sharing out
	day              time.Time     // when the quota began anew
	spent            int64         // of the quota since then, bytes
	bytes, datagrams uint64        // relayed for the peer as sender
	dropped          uint64        // of those it sent
	agents           int           // sessions that use it
	unused           time.Time     // since when agents is zero
}

// An Agent is one session. All fields belong to the table, under its owner's
// lock, save those of the first group, which never change.
type Agent struct {
	id      uint64 // its flow at every target, never zero
	peer    ri2n.PeerID
	remote  netip.AddrPort // where it was seen first: what its limits go by
	since   time.Time
	session Session // for the server; the table never calls it

	role       role
	registered bool
	observed   netip.AddrPort // where it was seen last
	deadline   time.Time      // of the registration
	outer      int            // bytes that a datagram of the session holds

	ends         map[uint64]*channelEnd
	opened       int    // channels opened by the agent
	incoming     int    // channels opened toward it
	nextOwn      uint64 // lowest number that the agent may still open
	nextIncoming uint64 // odd
	hold         protocol.Hold
	opens        *rate.Limiter
	account      *account

	outbox  []protocol.Message
	control net.Conn // for the writer; nil until the agent has opened it
	writing bool     // a writer is at work, or on the list of the woken
	gone    bool     // the session must be closed, with reason, once outbox is out
	reason  protocol.Reason
}

// A channel joins two agents. The first end is the source's.
type channel struct {
	ends       [2]channelEnd
	key        uint64
	generation uint64
	since      time.Time
	lastUse    time.Time
	consented  bool // the target has sent something back
	passed     int  // datagrams that went toward it before
	size       int  // largest packet, in bytes
	grant      *deposit
}

// A channelEnd is one side of a channel and its name there.
type channelEnd struct {
	channel *channel
	agent   *Agent
	number  uint64
	other   *channelEnd
	source  bool      // the channel was opened from here
	shown   time.Time // when this end last had its address shown
}

// A table holds registrations and channels. It is not safe for concurrent use:
// the server's mutex guards it.
type table struct {
	limits    Limits
	admission *admission
	stunPorts [2]uint16

	lastID   uint64
	peers    map[ri2n.PeerID]*Agent   // registered
	agents   map[*Agent]struct{}      // all sessions
	prefixes map[netip.Prefix]int     // registrations
	strange  map[netip.Prefix]int     // strangers
	accounts map[ri2n.PeerID]*account // of agents, and of those who were here lately
	channels map[*channel]struct{}
	share    float64   // bytes a second for each sender, of the rate of all
	shared   time.Time // when it was worked out
	woken    []*Agent  // have something to write and no writer
	counters Counters
}

func newTable(limits Limits, adm *admission, stunPorts [2]uint16) *table {
	return &table{
		limits:    limits.withDefaults(),
		share:     float64(limits.TotalRate),
		admission: adm,
		stunPorts: stunPorts,
		peers:     make(map[ri2n.PeerID]*Agent),
		agents:    make(map[*Agent]struct{}),
		prefixes:  make(map[netip.Prefix]int),
		strange:   make(map[netip.Prefix]int),
		accounts:  make(map[ri2n.PeerID]*account),
		channels:  make(map[*channel]struct{}),
	}
}

// arrive takes in a new session. The agent may be gone at once, with a reason.
func (t *table) arrive(now time.Time, peer ri2n.PeerID, remote netip.AddrPort, outer int) *Agent {
	t.lastID++
	a := &Agent{
		id:           t.lastID,
		peer:         peer,
		remote:       remote,
		observed:     remote,
		since:        now,
		outer:        outer,
		role:         t.admission.roleOf(now, peer),
		nextIncoming: 1,
		opens:        rate.NewLimiter(opensPerSecond, t.limits.ChannelsPerPeer),
	}
	t.agents[a] = struct{}{}
	if a.role != roleRefused {
		return a
	}
	a.role = roleStranger
	prefix := PrefixOf(remote.Addr())
	t.strange[prefix]++
	if t.strange[prefix] > maxStrangersPerPrefix {
		t.counters.PrefixRefused++
		t.end(now, a, protocol.ReasonBusy)
	}
	return a
}

// leave forgets a session that has ended.
func (t *table) leave(now time.Time, a *Agent) {
	if _, here := t.agents[a]; !here {
		return
	}
	t.unregister(now, a, protocol.ReasonPeerGone)
	delete(t.agents, a)
	if a.role == roleStranger {
		t.notStrange(a)
	}
	a.gone = true
}

// notStrange gives the stranger's places back.
func (t *table) notStrange(a *Agent) {
	prefix := PrefixOf(a.remote.Addr())
	if t.strange[prefix]--; t.strange[prefix] <= 0 {
		delete(t.strange, prefix)
	}
	t.admission.leave(a.peer)
}

// end closes a session of ours: what waits in its outbox leaves first.
func (t *table) end(now time.Time, a *Agent, reason protocol.Reason) {
	if a.gone {
		return
	}
	t.unregister(now, a, reason)
	a.gone, a.reason = true, reason
	t.counters.SessionsClosed[reason]++
	t.wake(a)
}

// send queues m for a. It never blocks.
func (t *table) send(a *Agent, m protocol.Message) {
	if a.gone {
		return
	}
	if len(a.outbox) >= maxOutbox {
		// Nothing that the agent should know may be left out, so that an
		// agent that reads nothing is given up as a whole.
		a.gone, a.reason = true, protocol.ReasonBusy
		a.outbox = nil
		t.counters.SessionsClosed[protocol.ReasonBusy]++
		t.unregister(a.deadline, a, protocol.ReasonPeerGone)
		t.wake(a)
		return
	}
	a.outbox = append(a.outbox, m)
	t.wake(a)
}

func (t *table) wake(a *Agent) {
	if !a.writing {
		a.writing = true
		t.woken = append(t.woken, a)
	}
}

// A relayed packet leaves toward an agent under a number of its session.
type relayed struct {
	to     *Agent
	number uint64
	flow   uint64 // the sender's id: a target's session is shared fairly by senders
	packet []byte
}

// receive handles one message from a. What it returns are datagrams that were
// held and may now pass. An agent that breaks the protocol is gone afterwards.
func (t *table) receive(now time.Time, a *Agent, m protocol.Message) []relayed {
	if a.gone {
		return nil
	}
	switch m := m.(type) {
	case protocol.Register:
		t.register(now, a, m)
	case protocol.Open:
		return t.open(now, a, m)
	case protocol.Closed:
		if e := a.ends[m.Channel]; e != nil {
			t.close(e.channel, e, m.Reason)
		}
	case protocol.Show:
		t.show(now, a, m)
	case protocol.Deposit:
		t.deposit(now, a, m)
	case protocol.Admit:
		t.admit(now, a, m)
	case protocol.Ask, protocol.Unknown: // there is no ledger
	default:
		t.violation(now, a, "message out of place")
	}
	return nil
}

// violation ends a session that broke the protocol, and that session alone.
func (t *table) violation(now time.Time, a *Agent, text string) {
	t.send(a, protocol.Error{Reason: protocol.ReasonProtocol, Text: text})
	t.end(now, a, protocol.ReasonProtocol)
}

// showAgain is how often the end of a channel may have its address shown.
const showAgain = 500 * time.Millisecond

// show tells the other end of a channel where a is seen. Without consent of the
// target nothing goes to it.
func (t *table) show(now time.Time, a *Agent, m protocol.Show) {
	e := a.ends[m.Channel]
	if e == nil || e.source && !e.channel.consented || now.Sub(e.shown) < showAgain || !a.observed.IsValid() {
		t.counters.ShowsDropped++
		return
	}
	e.shown = now
	t.counters.Shown++
	t.send(e.other.agent, protocol.Shown{Channel: e.other.number, Addr: a.observed})
}

func (t *table) register(now time.Time, a *Agent, m protocol.Register) {
	if a.role < roleGuest {
		t.refuseStranger(now, a)
		return
	}
	if !a.registered {
		if reason := t.mayRegister(a); reason != protocol.ReasonNone {
			t.counters.HandshakesRefused++
			t.send(a, protocol.Error{Reason: reason})
			t.end(now, a, reason)
			return
		}
		if old := t.peers[a.peer]; old != nil {
			t.end(now, old, protocol.ReasonSuperseded)
		}
		a.registered = true
		t.peers[a.peer] = a
		t.prefixes[PrefixOf(a.remote.Addr())]++
		a.account = t.accounts[a.peer]
		if a.account == nil {
			a.account = new(account)
			if t.limits.RelayRate > 0 {
				a.account.limiter = newByteLimiter(t.limits.RelayRate)
			}
			t.allot(a.account, now)
			t.accounts[a.peer] = a.account
		}
		a.account.agents++
		t.counters.Registrations++
	} else {
		t.counters.Refreshes++
	}
	a.deadline = now.Add(t.limits.Lifetime)
	t.send(a, protocol.Time{Now: now})
	t.send(a, protocol.Registered{
		Sequence:      m.Sequence,
		Observed:      a.observed,
		Lifetime:      t.limits.Lifetime,
		STUN:          t.stunPorts[0],
		AlternateSTUN: t.stunPorts[1],
	})
}

// refuseStranger tells an unknown peer what its operator needs to know.
func (t *table) refuseStranger(now time.Time, a *Agent) {
	t.send(a, protocol.Error{
		Reason: protocol.ReasonNotAdmitted,
		Text:   "ask the operator to add this line to the members file: " + a.peer.String(),
	})
	t.end(now, a, protocol.ReasonNotAdmitted)
}

// promote makes a stranger what it may be by now.
func (t *table) promote(now time.Time, a *Agent) {
	if a.gone || a.role != roleStranger {
		return
	}
	if r := t.admission.roleOf(now, a.peer); r != roleRefused {
		t.notStrange(a)
		a.role = r
	}
}

// mayRegister checks the limits; a peer's own older registration makes room.
func (t *table) mayRegister(a *Agent) protocol.Reason {
	old := t.peers[a.peer]
	total := len(t.peers)
	same := t.prefixes[PrefixOf(a.remote.Addr())]
	if old != nil {
		total--
		if PrefixOf(old.remote.Addr()) == PrefixOf(a.remote.Addr()) {
			same--
		}
	}
	if total >= t.limits.Registrations || same >= t.limits.RegistrationsPerPrefix {
		return protocol.ReasonBusy
	}
	return protocol.ReasonNone
}

// unregister closes the channels of a and forgets where its peer is.
func (t *table) unregister(now time.Time, a *Agent, reason protocol.Reason) {
	toOthers := reason
	if reason != protocol.ReasonSuperseded && reason != protocol.ReasonShutdown {
		toOthers = protocol.ReasonPeerGone
	}
	for _, e := range a.ends {
		t.close(e.channel, e, toOthers)
	}
	if !a.registered {
		return
	}
	a.registered = false
	if t.peers[a.peer] == a {
		delete(t.peers, a.peer)
	}
	prefix := PrefixOf(a.remote.Addr())
	if t.prefixes[prefix]--; t.prefixes[prefix] <= 0 {
		delete(t.prefixes, prefix)
	}
	if a.account.agents--; a.account.agents == 0 {
		a.account.unused = now
	}
}

func (t *table) open(now time.Time, a *Agent, m protocol.Open) []relayed {
	if m.Channel%2 != 0 || m.Channel < a.nextOwn {
		t.violation(now, a, "channel number out of order")
		return nil
	}
	a.nextOwn = m.Channel + 2
	waiting := a.hold.Take(now, m.Channel)
	target, grant, reason := t.mayOpen(now, a, m)
	if reason != protocol.ReasonNone {
		t.counters.ChannelsRefused[reason]++
		t.counters.DatagramsDropped[dropUnknownChannel] += uint64(len(waiting))
		t.send(a, protocol.Refused{Channel: m.Channel, Reason: reason})
		return nil
	}
	c := &channel{
		key:        m.Key,
		generation: m.Generation,
		since:      now,
		lastUse:    now,
		grant:      grant,
	}
	c.ends[0] = channelEnd{channel: c, agent: a, number: m.Channel, other: &c.ends[1], source: true}
	c.ends[1] = channelEnd{channel: c, agent: target, number: target.nextIncoming, other: &c.ends[0]}
	target.nextIncoming += 2
	// Whoever opens a channel wants to hear from the other end, so that two
	// that open toward each other at the same moment have both consented.
	for _, e := range target.ends {
		if e.source && e.other.agent == a {
			e.channel.consented = true
			c.consented = true
		}
	}
	for i := range c.ends {
		e := &c.ends[i]
		if e.agent.ends == nil {
			e.agent.ends = make(map[uint64]*channelEnd)
		}
		e.agent.ends[e.number] = e
	}
	a.opened++
	target.incoming++
	t.channels[c] = struct{}{}
	t.counters.ChannelsOpened++
	c.size = c.fit()
	t.send(a, protocol.Opened{Channel: m.Channel, Size: uint16(c.size)})
	t.send(target, protocol.Incoming{
		Channel:    c.ends[1].number,
		Key:        m.Key,
		Generation: m.Generation,
		Source:     a.peer,
		Size:       uint16(c.size),
	})
	var pass []relayed
	for _, packet := range waiting {
		if r, ok := t.forward(now, &c.ends[0], packet); ok {
			pass = append(pass, r)
		}
	}
	return pass
}

// mayOpen finds the target of an Open and says why not. An older generation of
// the same channel makes way.
func (t *table) mayOpen(now time.Time, a *Agent, m protocol.Open) (*Agent, *deposit, protocol.Reason) {
	if !a.registered {
		return nil, nil, protocol.ReasonNotRegistered
	}
	if !a.opens.AllowN(now, 1) {
		return nil, nil, protocol.ReasonBusy
	}
	for _, e := range a.ends {
		if e.source && e.channel.key == m.Key {
			if m.Generation <= e.channel.generation {
				return nil, nil, protocol.ReasonStale
			}
			t.close(e.channel, e, protocol.ReasonSuperseded)
			break
		}
	}
	target := t.peers[m.Target]
	if target == nil || target == a {
		return nil, nil, protocol.ReasonUnknownPeer
	}
	var grant *deposit
	switch {
	case a.role == roleGuest:
		if grant = t.admission.grant(now, a.peer, target.peer); grant == nil {
			return nil, nil, protocol.ReasonNotAdmitted
		}
	case target.role == roleGuest:
		// A guest is there for its sender alone; to others it is nobody.
		if grant = t.admission.grant(now, target.peer, a.peer); grant == nil {
			return nil, nil, protocol.ReasonUnknownPeer
		}
	}
	switch {
	case grant != nil && grant.left <= 0, !t.maySpend(a.account, now):
		return nil, nil, protocol.ReasonQuota
	case a.opened >= t.limits.ChannelsPerPeer, a.openTo(target) >= channelsPerPair:
		return nil, nil, protocol.ReasonLimit
	case target.incoming >= t.limits.IncomingPerPeer, len(t.channels) >= t.limits.Channels:
		return nil, nil, protocol.ReasonBusy
	}
	return target, grant, protocol.ReasonNone
}

// openTo counts the channels that a has open to target.
func (a *Agent) openTo(target *Agent) (n int) {
	for _, e := range a.ends {
		if e.source && e.other.agent == target {
			n++
		}
	}
	return n
}

// fit returns the largest packet that both sessions carry.
func (c *channel) fit() int {
	return min(protocol.Relayed(c.ends[0].agent.outer, c.ends[0].number),
		protocol.Relayed(c.ends[1].agent.outer, c.ends[1].number), 1<<16-1)
}

// close ends a channel and tells the ends other than by, which may be nil.
func (t *table) close(c *channel, by *channelEnd, reason protocol.Reason) {
	if _, here := t.channels[c]; !here {
		return
	}
	delete(t.channels, c)
	t.counters.ChannelsClosed[reason]++
	for i := range c.ends {
		e := &c.ends[i]
		delete(e.agent.ends, e.number)
		if e.source {
			e.agent.opened--
		} else {
			e.agent.incoming--
		}
		if e != by {
			t.send(e.agent, protocol.Closed{Channel: e.number, Reason: reason})
		}
	}
}

func (t *table) deposit(now time.Time, a *Agent, m protocol.Deposit) {
	reason := protocol.ReasonNotAdmitted
	if a.role == roleMember && a.registered {
		reason = t.admission.deposit(now, a.peer, m.Digest, m.Expiry)
	}
	if reason != protocol.ReasonNone {
		t.counters.DepositsRefused++
		t.send(a, protocol.Error{Request: m.Request, Reason: reason})
		return
	}
	t.counters.Deposits++
	t.send(a, protocol.OK{Request: m.Request})
}

func (t *table) admit(now time.Time, a *Agent, m protocol.Admit) {
	// A member needs no key. Its token is left for whom it was meant.
	if a.role == roleMember {
		t.send(a, protocol.OK{Request: m.Request})
		return
	}
	reason := t.admission.admit(now, a.peer, m.Key)
	if reason != protocol.ReasonNone {
		t.counters.AdmitsRefused++
		t.send(a, protocol.Error{Request: m.Request, Reason: reason})
		if a.role == roleStranger {
			t.end(now, a, reason) // one try
		}
		return
	}
	if a.role == roleStranger {
		t.notStrange(a)
		a.role = roleGuest
	}
	t.counters.Admits++
	t.send(a, protocol.OK{Request: m.Request})
}

// datagram handles one datagram from a: it may pass, be held until its channel
// opens, or be dropped and counted. The table keeps no part of b.
func (t *table) datagram(now time.Time, a *Agent, b []byte) (relayed, bool) {
	if a.gone || a.role < roleGuest || !a.registered {
		return relayed{}, t.drop(a, dropUnregistered)
	}
	number, packet, err := protocol.ParseFrame(b)
	if err != nil {
		return relayed{}, t.drop(a, dropMalformed)
	}
	if e := a.ends[number]; e != nil {
		return t.forward(now, e, packet)
	}
	if number%2 != 0 || number < a.nextOwn {
		return relayed{}, t.drop(a, dropUnknownChannel) // closed; a late packet or a replay
	}
	if !a.hold.Put(now, number, bytes.Clone(packet)) {
		return relayed{}, t.drop(a, dropHoldFull)
	}
	return relayed{}, false
}

// forward decides about one packet that entered at e.
func (t *table) forward(now time.Time, e *channelEnd, packet []byte) (relayed, bool) {
	c, a := e.channel, e.agent
	n := len(packet)
	switch {
	case n > c.size:
		return relayed{}, t.drop(a, dropTooLarge)
	case !c.consented && !e.source:
		c.consented = true
	case !c.consented && c.passed >= consentDatagrams:
		return relayed{}, t.drop(a, dropNoConsent)
	}
	a.account.offered += int64(n)
	if l := a.account.limiter; l != nil && !l.AllowN(now, n) {
		return relayed{}, t.drop(a, dropRate)
	}
	if l := a.account.part; l != nil && !l.AllowN(now, n) {
		return relayed{}, t.drop(a, dropRate)
	}
	if !t.spend(a.account, now, n) {
		t.close(c, nil, protocol.ReasonQuota)
		return relayed{}, t.drop(a, dropQuota)
	}
	if c.grant != nil {
		if c.grant.limiter != nil && !c.grant.limiter.AllowN(now, n) {
			return relayed{}, t.drop(a, dropRate)
		}
		if c.grant.left < int64(n) {
			c.grant.left = 0
			t.close(c, nil, protocol.ReasonQuota)
			return relayed{}, t.drop(a, dropQuota)
		}
		c.grant.left -= int64(n)
		t.counters.GuestBytes += uint64(n)
	}
	if !c.consented {
		c.passed++
	}
	c.lastUse = now
	a.account.datagrams++
	a.account.bytes += uint64(n)
	t.counters.RelayedDatagrams++
	t.counters.RelayedBytes += uint64(n)
	return relayed{to: e.other.agent, number: e.other.number, flow: a.id, packet: packet}, true
}

// drop counts a datagram of a that goes no further. It returns false.
func (t *table) drop(a *Agent, reason DropReason) bool {
	t.counters.DatagramsDropped[reason]++
	if a.account != nil {
		a.account.dropped++
	}
	return false
}

// resize notes how much the datagrams of a's session hold now, and tells both
// ends of its channels.
func (t *table) resize(a *Agent, outer int) {
	if a.outer == outer || a.gone {
		return
	}
	a.outer = outer
	for _, e := range a.ends {
		c := e.channel
		if size := c.fit(); size != c.size {
			c.size = size
			for i := range c.ends {
				t.send(c.ends[i].agent, protocol.MaxSize{Channel: c.ends[i].number, Size: uint16(size)})
			}
		}
	}
}

// expire forgets what has been silent for too long, and ends the sessions of
// those who may not have one any more.
func (t *table) expire(now time.Time) {
	t.shareOut(now)
	t.admission.expire(now)
	for a := range t.agents {
		if dropped := a.hold.Expire(now); dropped > 0 {
			t.counters.DatagramsDropped[dropHoldExpired] += uint64(dropped)
		}
		switch {
		case a.gone:
		case a.role == roleStranger:
			// A reload may have made a member of a stranger.
			if t.promote(now, a); a.role == roleStranger && now.Sub(a.since) >= strangerTime {
				t.refuseStranger(now, a)
			}
		case a.registered && !now.Before(a.deadline), !a.registered && now.Sub(a.since) >= t.limits.Lifetime:
			t.counters.Expired++
			t.end(now, a, protocol.ReasonNotRegistered)
		default:
			if a.role = t.admission.roleOf(now, a.peer); a.role == roleRefused {
				t.end(now, a, protocol.ReasonNotAdmitted)
			}
		}
	}
	for c := range t.channels {
		switch {
		case !c.consented && now.Sub(c.since) >= consentTime:
			t.close(c, nil, protocol.ReasonNoConsent)
		case now.Sub(c.lastUse) >= channelIdle:
			t.close(c, nil, protocol.ReasonIdle)
		}
	}
	for peer, acct := range t.accounts {
		// What was spent of a quota is remembered as long as it counts.
		if acct.agents == 0 && now.Sub(acct.unused) >= accountMemory && (acct.spent == 0 || now.Sub(acct.day) >= quotaTime) {
			delete(t.accounts, peer)
		}
	}
}

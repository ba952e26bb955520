package ri2n

import (
	"net/netip"

	"time"
)

// A PathState is what a path is good for at the moment.
type PathState int

const (
	PathProbing PathState = iota // its address is being proven
	PathActive                   // carries our data, maybe beside others
	PathStandby                  // proven, and kept for when the active ones fail
	PathSuspect                  // has stopped answering; others carry its data
	PathFailed                   // has not answered for long; probed rarely
	PathClosed
)

func (s PathState) String() string {
	switch s {
	case PathProbing:
		return "probing"
	case PathActive:
		return "active"
	case PathStandby:
		return "standby"
	case PathSuspect:
		return "suspect"
	case PathFailed:
		return "failed"
	case PathClosed:
		return "closed"
	}
	return "unknown"
}

// MarshalText implements [encoding.TextMarshaler].
func (s PathState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PathInfo describes one path of a session at one moment.
type PathInfo struct {
	ID             uint32
	Link           string
	Local, Remote  netip.AddrPort // zero for a carrier
	Carrier        bool           // through a relay
	State          PathState
	Sending        bool          // the first choice of this side; other active paths may carry data, too
	RTT            time.Duration // smoothed; zero: not measured yet
	RTTVar, MinRTT time.Duration
	MTU            int // bytes of UDP payload, or of a carrier's datagram

	CongestionWindow, BytesInFlight int     // bytes
	PacingRate                      float64 // bytes per second; zero: no round trip is known yet
	DeliveryRate                    float64 // bytes per second, the newest sample; zero: none

	PacketsSent, PacketsReceived uint64
	BytesSent, BytesReceived     uint64 // of UDP payload
	BytesDelivered               uint64 // of these sent, acknowledged by the peer
	Bursts                       uint64 // calls that sent; PacketsSent/Bursts is the length of one
	PacketsLost                  uint64 // declared lost, PMTU probes included
	PacketsSpurious              uint64 // lost or reinjected, acknowledged after all
	PacketsReinjected            uint64 // given up while others could carry what they held
	PacketsDuplicate             uint64 // received more than once
	ProbeTimeouts, Failovers     uint64
	LastReceived                 time.Time // zero: never
}

const (
	maxPaths         = 8
	initialMaxPathID = 15 // eight of each parity
	maxPathOpens     = 5  // a second, by the peer

	maxChallenges     = 3 // at each size
	maxResponses      = 8 // queued
	challengeInterval = 100 * time.Millisecond

	failAfterPTOs = 3
	failAfter     = 500 * time.Millisecond
	abandonAfter  = 60 * time.Second
	maxProbeWait  = 5 * time.Second

	// Another path takes over only when it is clearly better, so that two
	// equal ones do not take turns.
	switchGain = 5 * time.Millisecond
)

// A path carries packets between a link of ours and one transport address of
// the peer, or through a relay. The session's mutex guards it.
type path struct {
	id     pathID
	link   *Link
	remote netip.AddrPort

	remoteID connID // the peer's connection ID for this path
	localID  connID

	state   PathState
	settled chan struct{} // closed at the end of the first validation
	opened  time.Time

	// Address validation (RFC 9000, section 8.2).
	chosen      bool // our user named remote, so the 3x limit is not for it
	proven      bool // the peer answers at remote
	challenge   [8]byte
	challengeAt time.Time // next transmission; zero: none under way
	challenges  int       // sent at this size
	responses   [][8]byte // owed
	received    int       // bytes since remote was learned, for the 3x limit
	sent        int
	pmtu        pmtuSearch
	mtu         int
	previous    Remote    // what was proven before a NAT rebinding; zero: nothing
	returnAt    time.Time // when the path goes back there unless the new address is proven

	// Receiving.
	numbers receivedPackets
	refused *receivedPackets // opened, yet not to be acknowledged; nil: none
	updates uint64           // the peer's key updates before the newest of them
	freqBy  packetNumber     // packet that brought the newest ACK_FREQ
	acks    ackPolicy
	// Which of our ACKs the peer has (RFC 9000, section 13.2.4).
	ackAsked   bool // the next ack-eliciting packet with an ACK is to be noted
	ackAskedAt time.Time
	forgetBy   packetNumber // the largest of the newest ACK that the peer has
	ackedTo    packetNumber // the largest that an ACK has been sent of
	told       packetNumber // the largest of the last report on another path
	tellNext   packetNumber // what the next report covers
	heardTo    packetNumber // one above the largest that an ACK on the path itself told of
	toldAt     time.Time    // when that was

	// Sending.
	loss     *lossDetector
	rtt      rttEstimator
	cc       CongestionController
	pacer    pacer
	ptoCount int
	probes   int  // packets to send regardless of the congestion window
	ping     bool // a PING is due
	ackEvery int  // the threshold that we have told the peer; zero: its own
	limited  bool // the pacer holds data back
	canary   burstCanary
	carries  bool // may carry data: the first choice, or a second one
	second   bool
	copies   copyQueue
	tailFrom packetNumber // those below have been looked at by copyTails
	phaseAt  packetNumber

	// Health.
	suspectSince time.Time // zero: not suspect
	stallCheck   time.Time // not before: the last look found no data in flight
	heardAt      time.Time // when the newest progress was reported on the path itself
	owedSince    time.Time // when the oldest packet left that the path itself owes an ACK of; zero: none
	rescueAt     time.Time // when all that is in flight on a suspect path is sent again
	probeAt      time.Time // next probe of a failed path
	probeWait    time.Duration
	peerSuspects bool      // the peer has told us so
	shunned      bool      // and nothing told us then that the path lives
	peerBackup   bool      // the peer asks for data elsewhere
	stallSeen    time.Time // since when the path looks dead; zero: it does not
	silenceAt    time.Time // a PING tells whether the sender has gone; zero: not armed
	lastReceived time.Time
	lastSent     time.Time

	// What we tell the peer about the path.
	statusSeq  uint64
	statusDue  bool
	status     pathStatus
	peerSeq    uint64
	resetToken [16]byte
	hasToken   bool

	// What observers are shown.
	pathCounters
	deliveryRate float64   // bytes per second, of the newest sample
	stallSince   time.Time // nothing has been acknowledged since; zero: no stall
}

func (s *Session) newPath(id pathID, l *Link, remote netip.AddrPort, now time.Time) *path {
	size := l.baseSize()
	return &path{
		id:       id,
		link:     l,
		remote:   remote,
		remoteID: s.remoteIDs.cid(id, 0),
		localID:  s.localIDs.cid(id, 0),
		state:    PathProbing,
		settled:  make(chan struct{}),
		opened:   now,
		mtu:      size,
		acks:     ackPolicy{maxAckDelay: maxAckDelay},
		loss:     newLossDetector(s.random),
		cc:       s.newController(size),
		lastSent: now,
	}
}

// prove starts the validation of the path's remote address.
func (p *path) prove(s *Session, now time.Time) {
	s.endpoint.randomBytes(p.challenge[:])
	p.challengeAt, p.challenges = now, 0
}

// usable reports whether data may be sent on the path by choice.
func (p *path) usable() bool {
	return p.proven && !p.shunned && (p.state == PathActive || p.state == PathStandby)
}

// allowance is how many bytes may leave now under the 3x limit on addresses
// that have not been proven.
func (p *path) allowance() int {
	if p.proven || p.chosen || p.link.IsCarrier() {
		return 1 << 30
	}
	return 3*p.received - p.sent
}

// info returns a snapshot.
func (p *path) info(sending bool) PathInfo {
	i := PathInfo{
		ID: uint32(p.id), Link: p.link.name, Remote: p.remote, Carrier: p.link.IsCarrier(),
		State: p.state, Sending: sending, PacingRate: p.cc.PacingRate(), DeliveryRate: p.deliveryRate,
		BytesDelivered: p.loss.delivered + p.loss.outlived, Bursts: p.bursts, PacketsSpurious: p.packetsSpurious, PacketsReinjected: p.packetsReinjected,
		RTT: p.rtt.smoothed, RTTVar: p.rtt.variance, MinRTT: p.rtt.min,
		MTU: p.mtu, CongestionWindow: p.cc.Cwnd(), BytesInFlight: p.loss.bytesInFlight(),
		PacketsSent: p.packetsSent, PacketsReceived: p.packetsReceived, PacketsLost: p.packetsLost,
		PacketsDuplicate: p.packetsDuplicate, BytesSent: p.bytesSent, BytesReceived: p.bytesReceived,
		ProbeTimeouts: p.probeTimeouts, Failovers: p.failovers, LastReceived: p.lastReceived,
	}
	if a := p.link.LocalAddr(); a != nil {
		i.Local = addrPortOf(a)
	}
	return i
}

// better reports whether the session should send on p rather than on q, which
// is used now. A direct path is better than a relay.
func (p *path) better(q *path) bool {
	if p.link.IsCarrier() != q.link.IsCarrier() {
		return !p.link.IsCarrier()
	}
	if p.peerBackup != q.peerBackup {
		return q.peerBackup
	}
	// By the least RTT: the smoothed one of a busy path tells of our own queue.
	return p.rtt.samples > 0 && q.rtt.samples > 0 && p.rtt.min+max(switchGain, q.rtt.min/10) < q.rtt.min
}

// packetSize is the size in bytes of the packets that the path carries.
func (p *path) packetSize() int {
	if p.link.IsCarrier() {
		return min(p.mtu, p.link.maxSize())
	}
	return p.mtu
}

// followCarrier adopts the size that a carrier takes now, which is larger than
// the one that the path was proven with once the relay knows both of its halves.
func (p *path) followCarrier() {
	if !p.proven || !p.link.IsCarrier() {
		return
	}
	if size := min(p.link.maxSize(), maxPLPMTU); size != p.mtu {
		p.setMTU(size)
	}
}

// setMTU changes the size of the path's packets.
func (p *path) setMTU(size int) {
	p.mtu = size
	p.cc.SetMaxDatagramSize(size)
}

// searchMTU begins the search for the largest datagram from the base size that
// the path has been proven with. A carrier says itself what it takes.
func (p *path) searchMTU(now time.Time) {
	if p.link.IsCarrier() {
		return
	}
	p.pmtu = newPMTUSearch(p.mtu, p.link.largestDatagram(p.remote.Addr()))
	p.loss.largeSize = p.mtu
	p.pmtu.start(now)
}

// maxAckThreshold bounds what a peer may ask with ACK_FREQ.
const maxAckThreshold = 64

// ackThreshold is how many packets the peer should acknowledge at once: as
// many as leave sixteen ACKs in a window, since slow start learns from each.
func (p *path) ackThreshold() int {
	return min(max(p.cc.Cwnd()/(16*p.mtu), defaultAckThreshold), maxAckThreshold/2)
}

// wantsAckEvery reports whether n differs enough from what the peer was told
// to be worth a frame.
func (p *path) wantsAckEvery(n int) bool {
	told := p.ackEvery
	if told == 0 {
		told = defaultAckThreshold
	}
	return n >= 2*told || 2*n <= told
}

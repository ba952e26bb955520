package ri2n

import (
	"math"
	"math/rand/v2"
	"time"
)

// Congestion names a congestion control algorithm. It governs what one end
// sends, so the two ends of a session need not agree.
type Congestion int

const (
	// CongestionDefault is what the package holds to be best for most: BBR.
	CongestionDefault Congestion = iota
	CongestionBBR                // BBRv3, draft-ietf-ccwg-bbr-04, tolerant of random loss (decisions 0009 and 0014)
	CongestionCUBIC              // RFC 9438 with HyStart++ (RFC 9406)
	CongestionNewReno            // RFC 9002, section 7: for comparison
)

func (c Congestion) String() string {
	switch c {
	case CongestionDefault:
		return "default"
	case CongestionBBR:
		return "bbr"
	case CongestionCUBIC:
		return "cubic"
	case CongestionNewReno:
		return "newreno"
	}
	return "unknown"
}

// New returns a controller of this algorithm for one path. An algorithm that
// is not known is the default. A [Config.NewCongestion] may use it for the
// paths that it has no controller of its own for, or wrap what it returns.
func (c Congestion) New(p CongestionParams) CongestionController {
	switch c {
	case CongestionCUBIC:
		return newCubic(p.MaxDatagramSize)
	case CongestionNewReno:
		return newNewReno(p.MaxDatagramSize)
	}
	return newBBR(p.MaxDatagramSize, p.Rand)
}

// newController returns the controller that the endpoint's configuration asks
// for, for a path that carries packets of size bytes.
func (s *Session) newController(size int) CongestionController {
	params := CongestionParams{MaxDatagramSize: size, Rand: s.random}
	cfg := &s.endpoint.cfg
	if cfg.NewCongestion != nil {
		if cc := cfg.NewCongestion(params); cc != nil {
			return &guardedController{cc: cc, mss: size}
		}
	}
	return cfg.Congestion.New(params)
}

// CongestionParams is what a congestion controller learns when it is made. More
// fields may come.
type CongestionParams struct {
	// MaxDatagramSize is the largest packet of the path in bytes, without UDP
	// and IP headers.
	MaxDatagramSize int
	// Rand may be used while a method of the controller runs, and at no other
	// time. It is nil in tests that want no chance.
	Rand *rand.Rand
}

// A CongestionController bounds the bytes in flight on one path, and says how
// fast they may leave. All volumes are bytes of ri2n packets (UDP payload) that
// ask for an acknowledgement; a packet that does not is not counted, nor is a
// probe of the path MTU.
//
// All methods run under the lock of the session, one at a time: they must not
// block, nor call anything of the session or its streams. The controller of one
// path hears nothing of the others and shares nothing with them unless its
// maker arranges that, with locks of its own. now never goes backwards on a
// sane clock. The arguments are values; nothing in them is used again.
//
// For one acknowledgement or timer the calls come in this order, each only
// when there is something to tell: OnSpurious, OnLoss, OnAck. Between them and
// the next packet come Cwnd and PacingRate, often, so these should only return
// what the others have computed. What they return is brought into bounds: a
// controller may stop a path from being fast but not from making progress.
type CongestionController interface {
	// OnSent reports that a packet of so many bytes left; inFlight includes it.
	OnSent(now time.Time, bytes, inFlight int)
	// OnAck reports packets that were acknowledged for the first time.
	OnAck(now time.Time, s AckSample)
	// OnLoss reports packets declared lost (RFC 9002, section 6). Probe
	// time-outs are no losses; what they find out comes as OnAck and OnLoss.
	OnLoss(now time.Time, e LossEvent)
	// OnSpurious reports that all packets of the latest episode of losses have
	// arrived after all, so that a response to it should be undone.
	OnSpurious(now time.Time)
	// Reset returns to the initial state, for a path with a new address
	// (RFC 9000, section 9.4). The packet size stays.
	Reset()
	// Cwnd is the congestion window in bytes. What is less than two packets
	// counts as two, and what is above 1 GiB as that.
	Cwnd() int
	// PacingRate is in bytes per second. Zero, what is not a number and what is
	// negative or infinite mean that the window alone limits, as before the
	// first round trip; rates below 1000 count as 1000, those above 125 GB/s as
	// that.
	PacingRate() float64
	// SetMaxDatagramSize follows the path MTU, in bytes.
	SetMaxDatagramSize(size int)
}

// RTTStats is the round-trip time of a path (RFC 9002, section 5).
type RTTStats struct {
	Latest   time.Duration // the newest sample, the peer's ACK delay included
	Smoothed time.Duration // zero before the first sample
	Variance time.Duration // rttvar
	Min      time.Duration // the least sample ever, ACK delay included
}

// An AckSample is what a controller learns from newly acknowledged packets.
type AckSample struct {
	AckedBytes         int       // above zero
	PriorInFlight      int       // before the ACK
	LargestAckedSentAt time.Time // when the newest of the packets left

	RTT        RTTStats
	RTTSampled bool // RTT.Latest comes from this ACK

	// DeliveryRate in bytes per second
	// (draft-cheng-iccrg-delivery-rate-estimation). Zero: no sample.
	DeliveryRate float64
	AppLimited   bool // DeliveryRate says what was offered, not what fits
	RoundStart   bool // first ACK of a new packet-timed round trip
	Delivery     DeliverySpan
}

// A DeliverySpan tells what happened between the sending and the acknowledgement
// of the newest packet of an ACK. Counts are bytes.
type DeliverySpan struct {
	Total    uint64 // delivered on the path so far
	Prior    uint64 // of these, delivered before the packet left
	SentWith int    // in flight when it had left, itself included
	Lost     int    // declared lost since it left
	InFlight int    // in flight now
}

// A LossEvent is what a controller learns from packets declared lost at once.
type LossEvent struct {
	LostBytes         int       // above zero
	LargestLostSentAt time.Time // when the newest of the packets left
	Persistent        bool      // persistent congestion (RFC 9002, section 7.6)
	PriorInFlight     int       // before the loss was noticed
	Worst             LossShare
}

// A LossShare is, of the packets lost at once, the one with the largest share
// of bytes lost since it left in what was in flight then.
type LossShare struct {
	Size       int // of the packet, in bytes
	SentWith   int // bytes in flight when it had left, itself included
	Lost       int // bytes lost since it left, itself included
	AppLimited bool
}

func (s *LossShare) add(p *sentPacket, lost uint32) {
	if s.Size == 0 || float64(lost)*float64(s.SentWith) > float64(s.Lost)*float64(p.inFlight) {
		*s = LossShare{Size: int(p.size), SentWith: int(p.inFlight), Lost: int(lost), AppLimited: p.appLimited}
	}
}

// A guardedController keeps a controller that the package did not write from
// wedging its path. Its own methods that take events are the controller's.
type guardedController struct {
	cc  CongestionController
	mss int
}

// Bounds of a pacing rate, in bytes per second. The lower one lets a probe
// leave, whatever a controller has come to believe; what is above the upper one
// is no measurement.
const (
	minPacingRate = 1e3
	maxPacingRate = 1e12 / 8
)

func (g *guardedController) OnSent(now time.Time, bytes, inFlight int) {
	g.cc.OnSent(now, bytes, inFlight)
}
func (g *guardedController) OnAck(now time.Time, s AckSample)  { g.cc.OnAck(now, s) }
func (g *guardedController) OnLoss(now time.Time, e LossEvent) { g.cc.OnLoss(now, e) }
func (g *guardedController) OnSpurious(now time.Time)          { g.cc.OnSpurious(now) }
func (g *guardedController) Reset()                            { g.cc.Reset() }

func (g *guardedController) SetMaxDatagramSize(size int) {
	g.mss = size
	g.cc.SetMaxDatagramSize(size)
}

func (g *guardedController) Cwnd() int {
	return min(max(g.cc.Cwnd(), int(minimumCwnd(g.mss))), maxCwnd)
}

func (g *guardedController) PacingRate() float64 {
	rate := g.cc.PacingRate()
	if !(rate > 0) || math.IsInf(rate, 1) {
		return 0
	}
	return min(max(rate, minPacingRate), maxPacingRate)
}

const (
	// maxCwnd keeps the arithmetic far from overflow: 1 GiB.
	maxCwnd = 1 << 30

	// Pacing slightly faster than the window per RTT lets the window, not the
	// pacer, be the limit (RFC 9002, section 7.7); twice as fast in slow
	// start, where the window doubles within the round trip.
	pacingGain          = 1.25
	pacingGainSlowStart = 2
)

// initialCwnd and minimumCwnd as in RFC 9002, section 7.2.
func initialCwnd(mss int) float64 { return float64(min(10*mss, max(2*mss, 14720))) }
func minimumCwnd(mss int) float64 { return float64(2 * mss) }

// pacingRate returns gain windows per RTT, or zero when the RTT is unknown.
func pacingRate(cwnd float64, srtt time.Duration, slowStart bool) float64 {
	if srtt <= 0 {
		return 0
	}
	gain := pacingGain
	if slowStart {
		gain = pacingGainSlowStart
	}
	return gain * cwnd / srtt.Seconds()
}

// A windowUse tells whether the congestion window is what limits the sender.
// Only then may it grow (RFC 9002, section 7.8). It looks at the most bytes in
// flight during this round trip and the last, since pacing and bursts make the
// instant at which an ACK arrives a poor witness.
type windowUse struct {
	thisRound, lastRound int
}

func (u *windowUse) inFlight(bytes int) { u.thisRound = max(u.thisRound, bytes) }

func (u *windowUse) roundStart() { u.lastRound, u.thisRound = u.thisRound, 0 }

func (u *windowUse) limited(cwnd float64, mss int, slowStart bool) bool {
	most := float64(max(u.thisRound, u.lastRound))
	if slowStart {
		return 2*most >= cwnd
	}
	// A sender that waits for room for a burst stays a little below.
	return most+max(float64(3*mss), cwnd/16) >= cwnd
}

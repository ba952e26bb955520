package ri2n

import "time"

// Congestion names a congestion control algorithm. It governs what one end
// sends, so the two ends of a session need not agree.
type Congestion int

const (
	CongestionCUBIC   Congestion = iota // RFC 9438 with HyStart++ (RFC 9406)
	CongestionBBR                       // BBRv3, draft-ietf-ccwg-bbr-04, tolerant of random loss
	CongestionNewReno                   // RFC 9002, section 7: for comparison
)

func (c Congestion) String() string {
	switch c {
	case CongestionCUBIC:
		return "cubic"
	case CongestionBBR:
		return "bbr"
	case CongestionNewReno:
		return "newreno"
	}
	return "unknown"
}

// newController returns the controller that the endpoint's configuration asks
// for, for a path that carries packets of size bytes.
func (s *Session) newController(size int) congestionController {
	switch s.endpoint.cfg.Congestion {
	case CongestionBBR:
		return newBBR(size, s.random)
	case CongestionNewReno:
		return newNewReno(size)
	}
	return newCubic(size)
}

// A congestionController bounds the bytes in flight on one path. It is a state
// machine owned by the session; sizes are bytes.
type congestionController interface {
	// OnSent reports that bytes of ack-eliciting packets left; inFlight
	// includes them.
	OnSent(now time.Time, bytes, inFlight int)
	OnAck(now time.Time, s ackSample)
	OnLoss(now time.Time, e lossEvent)
	// OnSpurious reports that all losses since the last cut were spurious:
	// the cut is undone.
	OnSpurious(now time.Time)
	// Reset returns to the initial state, for a path with a new address.
	Reset()
	// Cwnd is the congestion window in bytes.
	Cwnd() int
	// PacingRate is in bytes per second. Zero means that no RTT is known yet
	// and the window alone limits.
	PacingRate() float64
	InSlowStart() bool
	// SetMaxDatagramSize follows the path MTU.
	SetMaxDatagramSize(size int)
}

// An ackSample is what a controller learns from newly acknowledged packets.
type ackSample struct {
	ackedBytes         int
	priorInFlight      int // before the ACK
	largestAckedSentAt time.Time
	rtt                *rttEstimator // read during the call only
	rttSampled         bool          // rtt.latest comes from this ACK
	deliveryRate       float64       // bytes per second; zero: no sample
	appLimited         bool
	roundStart         bool // first ACK of a new round trip
	delivery           deliverySpan
}

// A lossEvent is what a controller learns from packets declared lost at once.
type lossEvent struct {
	lostBytes         int
	largestLostSentAt time.Time
	persistent        bool // persistent congestion (RFC 9002, section 7.6)
	priorInFlight     int
	worst             lossShare
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

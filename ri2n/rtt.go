package ri2n

import "time"

const (
	// initialRTT stands for the smoothed RTT of a path before its first
	// sample. RFC 9002, section 6.2.2, recommends 333 ms. Ours is lower since
	// a dialer tries several candidates side by side, so that the first time-out
	// on a path is what decides how long a lost Initial delays the session: with
	// 200 ms it comes after 600 ms, which still exceeds the round trip of all
	// but geostationary paths. A guess; a path that is slower costs one needless
	// Initial.
	initialRTT = 200 * time.Millisecond

	// timerGranularity is kGranularity of RFC 9002, section 6.1.2.
	timerGranularity = time.Millisecond

	// maxPTO bounds the exponential backoff of ptoDeadline.
	maxPTO = 60 * time.Second
)

// An rttEstimator follows the round-trip time of one path (RFC 9002, section
// 5). The zero value has no sample yet.
type rttEstimator struct {
	latest   time.Duration // the newest sample, before the ACK delay is taken off
	smoothed time.Duration // zero before the first sample: use srtt
	variance time.Duration // rttvar
	min      time.Duration // the smallest sample ever, ACK delay included
	samples  int
	stale    bool // the next sample begins anew, save for min
}

// sample adds a measurement: latest is the time from sending the packet to the
// arrival of its ACK, ackDelay what the peer says it held that ACK back, of
// which at most maxAckDelay is believed. A sample that is not positive counts
// as one microsecond, so that a coarse clock cannot yield an RTT of zero.
func (r *rttEstimator) sample(latest, ackDelay, maxAckDelay time.Duration) {
	latest = max(latest, time.Microsecond)
	r.latest = latest
	r.samples++
	if r.samples == 1 {
		r.min = latest
	}
	if r.samples == 1 || r.stale {
		r.stale = false
		r.min = min(r.min, latest)
		r.smoothed = latest
		r.variance = latest / 2
		return
	}
	r.min = min(r.min, latest)

	// RFC 9002, section 5.3: the delay must not take a sample below min.
	ackDelay = max(0, min(ackDelay, maxAckDelay))
	adjusted := latest
	if latest-r.min >= ackDelay {
		adjusted = latest - ackDelay
	}
	deviation := (r.smoothed - adjusted).Abs()
	r.variance += (deviation - r.variance) / 4
	r.smoothed += (adjusted - r.smoothed) / 8
}

// outdate makes the next sample count as the first: the path has been silent,
// and the queue that the estimate tells of has gone.
func (r *rttEstimator) outdate() { r.stale = r.samples > 0 }

// stats is what congestion controllers see.
func (r *rttEstimator) stats() RTTStats {
	return RTTStats{Latest: r.latest, Smoothed: r.smoothed, Variance: r.variance, Min: r.min}
}

// srtt returns the smoothed RTT, or initialRTT before the first sample.
func (r *rttEstimator) srtt() time.Duration {
	if r.samples == 0 {
		return initialRTT
	}
	return r.smoothed
}

// pto returns the probe time-out without backoff (RFC 9002, section 6.2.1).
// maxAckDelay is zero in handshake packets, which are acknowledged at once.
func (r *rttEstimator) pto(maxAckDelay time.Duration) time.Duration {
	variance := r.variance
	if r.samples == 0 {
		variance = initialRTT / 2
	}
	return r.srtt() + max(4*variance, timerGranularity) + maxAckDelay
}

// lossDelay returns how long after its sending a packet is lost once a later
// one has been acknowledged: an RTT and so many eighths of one (RFC 9002,
// section 6.1.2).
func (r *rttEstimator) lossDelay(eighths int) time.Duration {
	d := max(r.srtt(), r.latest)
	return max(d+d/8*time.Duration(eighths), timerGranularity)
}

// reset forgets everything: the path has a new address (RFC 9000, section 9.4).
func (r *rttEstimator) reset() { *r = rttEstimator{} }

package ri2n

import "time"

// Constants of RFC 9406, section 4.3. Our sender is paced, so L is infinite:
// slow start grows by all that was acknowledged.
const (
	hystartMinThreshold   = 4 * time.Millisecond
	hystartMaxThreshold   = 16 * time.Millisecond
	hystartRTTDivisor     = 8
	hystartSamples        = 8
	hystartGrowthDivisor  = 4
	hystartCautiousRounds = 5
	hystartFullGrowth     = 1.0
	hystartCautiousGrowth = 1.0 / hystartGrowthDivisor
	hystartEndOfSlowStart = 0.0
)

// A hystart decides when the first slow start ends, by the rise of the RTT
// (HyStart++, RFC 9406). The zero value is at the start of a connection.
type hystart struct {
	lastMin, currentMin time.Duration // smallest RTT of the last and of this round; zero: none
	samples             int           // in this round

	cautious bool          // in conservative slow start (CSS)
	baseline time.Duration // smallest RTT of the round that led into CSS
	rounds   int           // rounds begun in CSS
}

// ack takes the RTT of an ACK, zero when it gave none, and returns by what
// part of the acknowledged bytes the window grows: 1, 1/4, or 0 when slow
// start has ended.
func (h *hystart) ack(rtt time.Duration, roundStart bool) float64 {
	if roundStart {
		h.lastMin, h.currentMin, h.samples = h.currentMin, 0, 0
		if h.cautious {
			if h.rounds++; h.rounds > hystartCautiousRounds {
				return hystartEndOfSlowStart
			}
		}
	}
	if rtt > 0 {
		if h.currentMin == 0 || rtt < h.currentMin {
			h.currentMin = rtt
		}
		h.samples++
	}
	if h.samples >= hystartSamples && h.currentMin > 0 {
		h.judge()
	}
	if h.cautious {
		return hystartCautiousGrowth
	}
	return hystartFullGrowth
}

// judge enters or leaves CSS.
func (h *hystart) judge() {
	if h.cautious {
		// The rise was a passing one.
		if h.currentMin < h.baseline {
			h.cautious = false
		}
		return
	}
	if h.lastMin == 0 {
		return
	}
	threshold := min(max(h.lastMin/hystartRTTDivisor, hystartMinThreshold), hystartMaxThreshold)
	if h.currentMin >= h.lastMin+threshold {
		h.cautious, h.baseline, h.rounds = true, h.currentMin, 1
	}
}

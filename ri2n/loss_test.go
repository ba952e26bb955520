package ri2n

import (
	"math/rand/v2"
	"testing"
	"time"
)

// t0 is the time at which the tests begin.
var t0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const ms = time.Millisecond

func ackOf(ranges ...ackRange) *ackFrame { return &ackFrame{ranges: ranges} }

// sendN sends n ack-eliciting packets of 1000 bytes, each apart after the
// other, and returns the time of the last. Frame offsets equal packet numbers.
func sendN(d *lossDetector, now time.Time, n int, apart time.Duration) time.Time {
	for i := range n {
		if i > 0 {
			now = now.Add(apart)
		}
		pn := d.nextPacketNumber()
		d.sent(now, pn, 1000, true, false, frameRef{kind: 1, offset: uint64(pn)}, nil)
	}
	return now
}

func offsets(refs []frameRef) []uint64 {
	var o []uint64
	for _, r := range refs {
		o = append(o, r.offset)
	}
	return o
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	d := newLossDetector(rand.New(rand.NewPCG(1, 2)))
	var (
		rtt   rttEstimator
		out   ackOutcome
		now   = t0
		extra = []frameRef{{kind: 2}, {kind: 3}}
		ack   = ackFrame{ranges: make([]ackRange, 1)}
	)
	round := func() {
		var from, to packetNumber
		for i := range 40 {
			pn := d.nextPacketNumber()
			if i == 0 || pn > to+1 {
				from = pn
			}
			to = pn
			d.sent(now, pn, 1200, true, false, frameRef{kind: 1}, extra)
			now = now.Add(100 * time.Microsecond)
		}
		ack.ranges[0] = ackRange{from, to}
		out.reset()
		if err := d.onAck(now, &ack, &rtt, 5*ms, &out); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("40 packets and an ACK allocate %v times, want 0", n)
	}
}

package ri2n

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"
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
	if n := unsafe.Sizeof(sentPacket{}); n != 104 {
		t.Errorf("a record takes %d bytes, want 96", n)
	}
	for range 1000 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("40 packets and an ACK allocate %v times, want 0", n)
	}
}

func TestPacketThreshold(t *testing.T) {
	for _, tt := range []struct {
		name string
		ack  []ackRange
		lost []uint64
	}{
		// RFC 9002, section 6.1.1: three later packets.
		{"two later packets", []ackRange{{2, 2}}, nil},
		{"three later packets", []ackRange{{3, 3}}, []uint64{0}},
		{"all before the last three", []ackRange{{9, 9}}, []uint64{0, 1, 2, 3, 4, 5, 6}},
		{"gap between ranges", []ackRange{{6, 9}, {0, 3}}, []uint64{4, 5}},
		{"nothing missing", []ackRange{{0, 9}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newLossDetector(nil)
			var rtt rttEstimator
			var out ackOutcome
			now := sendN(d, t0, 10, 0)
			if err := d.onAck(now.Add(50*ms), ackOf(tt.ack...), &rtt, 0, &out); err != nil {
				t.Fatal(err)
			}
			if got := offsets(out.lost); !slices.Equal(got, tt.lost) {
				t.Errorf("lost = %v, want %v", got, tt.lost)
			}
			if want := len(tt.lost) * 1000; out.lostBytes != want {
				t.Errorf("lost bytes = %d, want %d", out.lostBytes, want)
			}
			if want := 10000 - out.ackedBytes - out.lostBytes; d.bytesInFlight() != want {
				t.Errorf("bytes in flight = %d, want %d", d.bytesInFlight(), want)
			}
		})
	}
}

// RFC 9002, section 6.1.2: 9/8 of the RTT after its sending.
func TestTimeThreshold(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	sendN(d, t0, 2, 8*ms)
	if err := d.onAck(t0.Add(88*ms), ackOf(ackRange{1, 1}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.lost) != 0 {
		t.Fatalf("lost %v before the time threshold", out.lost)
	}
	due := t0.Add(90 * ms) // 80 ms RTT
	if got := d.lossTime(); !got.Equal(due) {
		t.Fatalf("loss time = %v, want %v", got.Sub(t0), due.Sub(t0))
	}
	out.reset()
	d.onTimer(due.Add(-1), &rtt, &out)
	if len(out.lost) != 0 {
		t.Errorf("lost one nanosecond early")
	}
	d.onTimer(due, &rtt, &out)
	if got := offsets(out.lost); !slices.Equal(got, []uint64{0}) {
		t.Errorf("lost = %v, want [0]", got)
	}
	if d.bytesInFlight() != 0 || d.ackElicitingInFlight() != 0 {
		t.Errorf("in flight: %d bytes, %d packets, want none", d.bytesInFlight(), d.ackElicitingInFlight())
	}
}

func TestTimeThresholdGranularity(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	sendN(d, t0, 2, 0)
	if err := d.onAck(t0.Add(100*time.Microsecond), ackOf(ackRange{1, 1}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	if got := d.lossTime(); !got.Equal(t0.Add(ms)) {
		t.Errorf("loss time = %v, want 1ms (RFC 9002, section 6.1.2)", got.Sub(t0))
	}
}

func TestPTODeadline(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	if got := d.ptoDeadline(&rtt, 0, 0); !got.IsZero() {
		t.Errorf("deadline with nothing in flight = %v", got)
	}
	sendN(d, t0, 1, 0)
	for _, tt := range []struct {
		name  string
		rtt   rttEstimator
		count int
		want  time.Duration
	}{
		{"no sample", rttEstimator{}, 0, 600*ms + 5*ms},
		{"first", rttEstimator{smoothed: 20 * ms, variance: 2 * ms, samples: 9}, 0, 33 * ms},
		{"backoff", rttEstimator{smoothed: 20 * ms, variance: 2 * ms, samples: 9}, 3, 264 * ms},
		{"granularity", rttEstimator{smoothed: 20 * ms, samples: 9}, 0, 26 * ms},
		{"bounded", rttEstimator{smoothed: 20 * ms, samples: 9}, 1 << 30, maxPTO},
	} {
		if got := d.ptoDeadline(&tt.rtt, 5*ms, tt.count).Sub(t0); got != tt.want {
			t.Errorf("%s: PTO after %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestAckOfUnsent(t *testing.T) {
	var rtt rttEstimator
	var out ackOutcome
	t.Run("nothing sent", func(t *testing.T) {
		if err := newLossDetector(nil).onAck(t0, ackOf(ackRange{0, 0}), &rtt, 0, &out); err != errAckUnsent {
			t.Errorf("error = %v, want errAckUnsent", err)
		}
	})
	t.Run("beyond the last", func(t *testing.T) {
		d := newLossDetector(nil)
		sendN(d, t0, 3, 0)
		if err := d.onAck(t0, ackOf(ackRange{0, 3}), &rtt, 0, &out); err != errAckUnsent {
			t.Errorf("error = %v, want errAckUnsent", err)
		}
		if d.ackElicitingInFlight() != 3 {
			t.Errorf("a bad ACK changed what is in flight")
		}
	})
	t.Run("reserved but not sent", func(t *testing.T) {
		d := newLossDetector(nil)
		sendN(d, t0, 1, 0)
		d.nextPacketNumber()
		sendN(d, t0, 1, 0)
		if err := d.onAck(t0, ackOf(ackRange{0, 2}), &rtt, 0, &out); err != errAckUnsent {
			t.Errorf("error = %v, want errAckUnsent", err)
		}
	})
}

// A receiver that acknowledges what it has not received is found out, since
// it cannot know which numbers were skipped.
func TestOptimisticAck(t *testing.T) {
	d := newLossDetector(rand.New(rand.NewPCG(3, 4)))
	var rtt rttEstimator
	var out ackOutcome
	now, skipped := t0, 0
	sendN(d, now, 32, 0)
	for round := range 1000 {
		before := d.ring.next
		now = sendN(d, now.Add(ms), 32, 0)
		skipped += int(d.ring.next-before) - 32
		if round < 999 {
			// All but the newest 32, as an honest receiver would have them.
			ack := new(ackFrame)
			end := before
			for n := before; n > 0 && n > d.ring.base; n-- {
				if d.ring.at(n-1).state == sentSkipped {
					if n < end {
						ack.ranges = append(ack.ranges, ackRange{n, end - 1})
					}
					end = n - 1
				}
			}
			if end > d.ring.base {
				ack.ranges = append(ack.ranges, ackRange{d.ring.base, end - 1})
			}
			out.reset()
			if err := d.onAck(now, ack, &rtt, 0, &out); err != nil {
				t.Fatalf("round %d: honest ACK %v refused", round, ack.ranges)
			}
		}
	}
	if skipped < 150 || skipped > 400 {
		t.Errorf("skipped %d of 32000 numbers with 64 in flight, want about 250", skipped)
	}
	for range 1000 {
		next := d.ring.next
		now = sendN(d, now.Add(ms), 32, 0)
		out.reset()
		if d.onAck(now, ackOf(ackRange{next, d.lastSent}), &rtt, 0, &out) == errAckUnsent {
			return
		}
	}
	t.Error("1000 optimistic ACKs went unnoticed")
}

func TestSpuriousLoss(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	now := sendN(d, t0, 20, 0).Add(50 * ms)
	must := func(ranges ...ackRange) {
		t.Helper()
		out.reset()
		if err := d.onAck(now, ackOf(ranges...), &rtt, 0, &out); err != nil {
			t.Fatal(err)
		}
	}
	must(ackRange{2, 11}) // 0 and 1 lost
	if got := offsets(out.lost); !slices.Equal(got, []uint64{0, 1}) {
		t.Fatalf("lost = %v, want [0 1]", got)
	}
	must(ackRange{1, 11})
	if out.spurious != 1 || out.undo {
		t.Errorf("one of two spurious: spurious = %d, undo = %v, want 1, false", out.spurious, out.undo)
	}
	if got := offsets(out.acked); !slices.Equal(got, []uint64{1}) {
		t.Errorf("acked = %v, want [1]: the session must not send it again", got)
	}
	if d.threshold != 11 {
		t.Errorf("packet threshold = %d, want 11 (11-1+1)", d.threshold)
	}
	must(ackRange{0, 11})
	if out.spurious != 1 || !out.undo {
		t.Errorf("both spurious: spurious = %d, undo = %v, want 1, true", out.spurious, out.undo)
	}
	if d.bytesInFlight() != 8000 {
		t.Errorf("bytes in flight = %d, want 8000", d.bytesInFlight())
	}
	must(ackRange{0, 11})
	if out.spurious != 0 || out.newlyAcked != 0 {
		t.Errorf("the same ACK again counts %d spurious, %d new", out.spurious, out.newlyAcked)
	}
	for range 10 {
		sendN(d, now, 100, 0)
	}
	must(ackRange{919, 1019})
	must(ackRange{919, 1019}, ackRange{100, 100})
	if d.threshold != maxPacketThreshold {
		t.Errorf("packet threshold = %d, want the limit %d", d.threshold, maxPacketThreshold)
	}
}

// After the example of RFC 9002, section 7.6.3: packets leave at 0, 1, .. 6, 8
// and 12 s; 0 and 1 are acknowledged, then the last, at 12.2 s.
func TestPersistentCongestion(t *testing.T) {
	run := func(t *testing.T, ackMiddle bool) ackOutcome {
		d := newLossDetector(nil)
		var rtt rttEstimator
		var out ackOutcome
		send := func(at time.Duration) { sendN(d, t0.Add(at), 1, 0) }
		ack := func(at time.Duration, ranges ...ackRange) {
			t.Helper()
			out.reset()
			if err := d.onAck(t0.Add(at), ackOf(ranges...), &rtt, 0, &out); err != nil {
				t.Fatal(err)
			}
		}
		send(0)
		ack(1*time.Second, ackRange{0, 0})
		send(1 * time.Second)
		ack(2*time.Second, ackRange{0, 1})
		rtt = rttEstimator{smoothed: time.Second, min: time.Second, latest: time.Second, samples: 2}
		for _, at := range []time.Duration{2, 3, 4, 5, 6, 8} {
			send(at * time.Second)
		}
		if ackMiddle {
			ack(8500*ms, ackRange{4, 4}, ackRange{0, 1})
			rtt = rttEstimator{smoothed: time.Second, min: time.Second, latest: time.Second, samples: 2}
		}
		send(12 * time.Second)
		ack(12200*ms, ackRange{8, 8}, ackRange{0, 1})
		return out
	}
	t.Run("established", func(t *testing.T) {
		out := run(t, false)
		if got := offsets(out.lost); !slices.Equal(got, []uint64{2, 3, 4, 5, 6, 7}) {
			t.Errorf("lost = %v, want [2 3 4 5 6 7]", got)
		}
		if !out.persistentCongestion {
			t.Error("6 s of losses with a PTO of 1.7 s are not persistent congestion")
		}
	})
	t.Run("broken by an acknowledged packet", func(t *testing.T) {
		if out := run(t, true); out.persistentCongestion {
			t.Error("persistent congestion although packet 4 arrived between")
		}
	})
	t.Run("before the first sample", func(t *testing.T) {
		d := newLossDetector(nil)
		var rtt rttEstimator
		var out ackOutcome
		now := sendN(d, t0, 20, time.Second)
		if err := d.onAck(now.Add(ms), ackOf(ackRange{19, 19}), &rtt, 0, &out); err != nil {
			t.Fatal(err)
		}
		if out.persistentCongestion {
			t.Error("persistent congestion without a prior RTT sample (RFC 9002, section 7.6.2)")
		}
	})
}

func TestLostProbeIsNotCongestion(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	pn := d.nextPacketNumber()
	d.sent(t0, pn, 1452, true, true, frameRef{kind: 9}, nil)
	sendN(d, t0, 3, 0)
	if err := d.onAck(t0.Add(20*ms), ackOf(ackRange{1, 3}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.lost) != 1 || out.lost[0].kind != 9 || out.newlyLost != 1 {
		t.Errorf("lost = %v, want the probe", out.lost)
	}
	if out.lostBytes != 0 || !out.largestLostSentAt.IsZero() {
		t.Errorf("lost bytes = %d at %v, want none (RFC 9000, section 14.4)", out.lostBytes, out.largestLostSentAt)
	}
}

func TestRTTSampleNeedsNewLargest(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	sendN(d, t0, 4, 0)
	for _, tt := range []struct {
		ack     []ackRange
		sampled bool
	}{
		{[]ackRange{{2, 2}}, true},
		{[]ackRange{{2, 2}, {0, 0}}, false}, // RFC 9002, section 5.1
		{[]ackRange{{2, 3}}, true},
	} {
		out.reset()
		if err := d.onAck(t0.Add(ms), ackOf(tt.ack...), &rtt, 0, &out); err != nil {
			t.Fatal(err)
		}
		if out.rttSampled != tt.sampled {
			t.Errorf("ACK %v sampled: %v, want %v", tt.ack, out.rttSampled, tt.sampled)
		}
	}
}

// Packets that carry only ACKs are never acknowledged by themselves; a long
// download must not collect their records.
func TestAckOnlyPacketsLeaveNoRecord(t *testing.T) {
	d := newLossDetector(rand.New(rand.NewPCG(1, 1)))
	now := t0
	for range 100_000 {
		now = now.Add(ms)
		d.sent(now, d.nextPacketNumber(), 60, false, false, frameRef{kind: 4}, nil)
		if d.bytesInFlight() != 0 {
			t.Fatal("an ACK counts as in flight")
		}
	}
	if got := len(d.ring.slots); got > minSentRing {
		t.Errorf("ring of %d slots after ACKs only, want at most %d", got, minSentRing)
	}
}

func TestRingGrowsAndShrinks(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	if d.ring.slots != nil || !d.lossTime().IsZero() {
		t.Error("a new detector holds memory or wants a timer")
	}
	now := sendN(d, t0, 5000, 0)
	if got := len(d.ring.slots); got != 8192 {
		t.Errorf("slots with 5000 in flight = %d, want 8192", got)
	}
	n := 0
	d.outstanding(func(p *sentPacket) {
		if p.first.offset != uint64(n) {
			t.Fatalf("outstanding packet %d is %d", n, p.first.offset)
		}
		n++
	})
	if n != 5000 {
		t.Errorf("outstanding = %d, want 5000", n)
	}
	ackAll := func() {
		t.Helper()
		out.reset()
		if err := d.onAck(now, ackOf(ackRange{0, d.lastSent}), &rtt, 0, &out); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(20 * ms)
	ackAll()
	if out.newlyAcked != 5000 || d.ring.len() != 0 {
		t.Errorf("acked %d, window %d, want 5000, 0", out.newlyAcked, d.ring.len())
	}
	// A trickle keeps a ring for a trickle.
	for range 300 {
		now = sendN(d, now.Add(10*ms), 4, 0)
		ackAll()
	}
	if got := len(d.ring.slots); got > 16 {
		t.Errorf("slots in a trickle = %d, want at most 16", got)
	}
	// Silence keeps none.
	due := d.lossTime()
	if want := now.Add(sentRingInterval); !due.Equal(want) {
		t.Fatalf("timer after the last packet at %v, want %v", due, want)
	}
	d.onTimer(due, &rtt, &out)
	if d.ring.slots != nil || !d.lossTime().IsZero() {
		t.Error("an idle detector holds memory or wants a timer")
	}
	now = sendN(d, due, 3, 0)
	ackAll()
	if out.newlyAcked != 3 {
		t.Errorf("after idleness acked %d, want 3", out.newlyAcked)
	}
}

// A number that was taken but not used must not keep the timer running.
func TestIdleAfterUnusedNumber(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	d.nextPacketNumber()
	d.onTimer(t0, &rtt, &out)
	sendN(d, t0, 1, 0)
	d.nextPacketNumber()
	if err := d.onAck(t0.Add(ms), ackOf(ackRange{1, 1}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	d.onTimer(d.lossTime(), &rtt, &out)
	if at := d.lossTime(); !at.IsZero() || d.ring.slots != nil {
		t.Errorf("idle: timer at %v, %d slots, want neither", at, len(d.ring.slots))
	}
	if pn := d.nextPacketNumber(); pn != 3 {
		t.Errorf("next number = %d, want 3", pn)
	}
}

// A lost packet does not keep the records of the ACKs sent after it.
func TestAckOnlyPacketsBehindALoss(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	now := sendN(d, t0, 4, 0).Add(20 * ms)
	if err := d.onAck(now, ackOf(ackRange{1, 3}), &rtt, 0, &out); err != nil || len(out.lost) != 1 {
		t.Fatalf("lost %v, error %v", out.lost, err)
	}
	for range 5000 {
		now = now.Add(ms)
		d.sent(now, d.nextPacketNumber(), 60, false, false, frameRef{}, nil)
	}
	if got := d.ring.len(); got != 0 {
		t.Errorf("records = %d, want 0", got)
	}
}

// The records are bounded even if the peer never acknowledges.
func TestCanSendBoundsRecords(t *testing.T) {
	d := newLossDetector(rand.New(rand.NewPCG(1, 1)))
	n := 0
	for ; d.canSend(); n++ {
		d.sent(t0, d.nextPacketNumber(), 1200, true, false, frameRef{}, nil)
	}
	if len(d.ring.slots) != maxSentRing || n < maxSentRing*9/10 {
		t.Errorf("%d slots after %d packets, want %d", len(d.ring.slots), n, maxSentRing)
	}
}

func TestMarkAllLost(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	now := sendN(d, t0, 5, 0)
	if err := d.onAck(now.Add(ms), ackOf(ackRange{1, 1}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	out.reset()
	d.markAllLost(&out)
	if got := offsets(out.lost); !slices.Equal(got, []uint64{0, 2, 3, 4}) {
		t.Errorf("lost = %v, want [0 2 3 4]", got)
	}
	if d.bytesInFlight() != 0 || !d.ptoDeadline(&rtt, 0, 0).IsZero() {
		t.Errorf("bytes in flight = %d, want 0", d.bytesInFlight())
	}
	out.reset()
	if err := d.onAck(now.Add(2*ms), ackOf(ackRange{0, 4}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	if out.spurious != 4 || d.ring.len() != 0 {
		t.Errorf("late ACK: spurious = %d, window = %d, want 4, 0", out.spurious, d.ring.len())
	}
	// An earlier cut was for other packets and stays.
	if out.undo || d.threshold != minPacketThreshold {
		t.Errorf("late ACK: undo = %v, threshold = %d, want false, %d", out.undo, d.threshold, minPacketThreshold)
	}
}

// An ACK repeats old ranges many times over. The records behind one packet
// that is lost, or still on its way, are looked at once all the same.
func TestAckCostIsThatOfNewPackets(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	now := t0
	const window = 60_000
	now = sendN(d, now, window, 0)
	steps := 0
	for n := packetNumber(2); n < window; n += 2 {
		out.reset()
		d.threshold = window // keep packet 0 outstanding
		if err := d.onAck(now, ackOf(ackRange{1, n}), &rtt, 0, &out); err != nil {
			t.Fatal(err)
		}
		steps += out.newlyAcked
		// All runs below n lead to packet 0 in a few jumps.
		end, jumps := n+1, 0
		for end > 1 {
			end -= packetNumber(d.ring.at(end - 1).run)
			if jumps++; jumps > 64 {
				t.Fatalf("more than 64 jumps over %d acknowledged packets", n)
			}
		}
	}
	if d.ring.base != 0 || steps != window-2 && steps != window-1 {
		t.Errorf("base = %d, acknowledged %d of %d", d.ring.base, steps, window)
	}
}

func TestDeliveryRate(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	// 1000 bytes each millisecond with a 10 ms RTT: 1 MB/s.
	for i := range 100 {
		now := sendN(d, t0.Add(time.Duration(i)*ms), 1, 0)
		if i < 10 {
			continue
		}
		out.reset()
		if err := d.onAck(now, ackOf(ackRange{0, packetNumber(i - 10)}), &rtt, 0, &out); err != nil {
			t.Fatal(err)
		}
		if i < 30 {
			continue
		}
		if out.deliveryRate < 0.99e6 || out.deliveryRate > 1.01e6 {
			t.Errorf("delivery rate = %.0f, want 1000000", out.deliveryRate)
		}
		if want := i >= 61 && i <= 71; out.appLimited != want {
			t.Errorf("packet %d app limited: %v, want %v", i-10, out.appLimited, want)
		}
		if i == 50 {
			d.setAppLimited()
		}
	}
}

// TestDeliveryRateOfLateAcks: a path comes back, and the ACK of the first packet
// that leaves on it acknowledges a whole window of before, too.
func TestDeliveryRateOfLateAcks(t *testing.T) {
	d := newLossDetector(nil)
	var rtt rttEstimator
	var out ackOutcome
	now := sendN(d, t0, 20, ms).Add(10 * ms)
	if err := d.onAck(now, ackOf(ackRange{0, 19}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	now = sendN(d, now, 100, 100*time.Microsecond).Add(100 * ms)
	out.reset()
	d.markAllLost(&out)
	now = sendN(d, now, 1, 0).Add(10 * ms)
	out.reset()
	if err := d.onAck(now, ackOf(ackRange{20, 120}), &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	if out.spurious != 100 || out.deliveryRate != 100e3 {
		t.Errorf("%d late ACKs and one of 1000 bytes after 10 ms: delivery rate = %.0f, want 100000", out.spurious, out.deliveryRate)
	}
	if got := d.delivered + d.outlived; got != 121e3 {
		t.Errorf("%d bytes delivered, want 121000", got)
	}
}

func FuzzOnAck(f *testing.F) {
	f.Add(uint64(1), []byte{30, 0, 0, 5, 1, 3, 2, 9})
	f.Add(uint64(2), []byte{255, 40, 250, 1, 1, 1, 200, 100, 50, 25})
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		script = script[:min(len(script), 500)] // the check below is quadratic
		rng := rand.New(rand.NewPCG(seed, 1))
		d := newLossDetector(rng)
		var rtt rttEstimator
		var out ackOutcome
		now := t0
		next := func() (b byte) {
			if len(script) > 0 {
				b, script = script[0], script[1:]
			}
			return b
		}
		sent, resolved := 0, 0
		for len(script) > 0 {
			out.reset()
			switch op := next(); op % 4 {
			case 0:
				for range op % 64 {
					eliciting := rng.IntN(5) > 0
					d.sent(now, d.nextPacketNumber(), 1200, eliciting, rng.IntN(20) == 0, frameRef{kind: 1}, nil)
					if eliciting {
						sent++
					}
				}
			case 1, 2:
				ack := &ackFrame{delay: time.Duration(next()) * ms}
				for range op % 32 {
					a, b := packetNumber(next()), packetNumber(next())
					if op >= 128 {
						a, b = d.lastSent-a, d.lastSent-b // may wrap around
					}
					if op == 255 {
						a, b = 0, 1<<62
					}
					ack.ranges = append(ack.ranges, ackRange{a, b})
				}
				if err := d.onAck(now, ack, &rtt, 5*ms, &out); err != nil && err != errAckUnsent {
					t.Fatal(err)
				}
			case 3:
				now = now.Add(time.Duration(op) * ms)
				d.onTimer(now, &rtt, &out)
				if op == 255 {
					d.markAllLost(&out)
				}
			}
			resolved += len(out.lost)
			if d.bytesInFlight() != 1200*d.ackElicitingInFlight() || d.bytesInFlight() < 0 {
				t.Fatalf("%d bytes in %d packets in flight", d.bytesInFlight(), d.ackElicitingInFlight())
			}
			n := 0
			d.outstanding(func(*sentPacket) { n++ })
			if n != d.ackElicitingInFlight() {
				t.Fatalf("%d packets outstanding, %d in flight", n, d.ackElicitingInFlight())
			}
			if n > sent || resolved > sent {
				t.Fatalf("%d outstanding and %d lost of %d sent", n, resolved, sent)
			}
			if d.ring.base > d.cursor || d.cursor > d.ring.next {
				t.Fatalf("base %d, cursor %d, next %d", d.ring.base, d.cursor, d.ring.next)
			}
		}
	})
}

// The work of recovery for each packet at a threshold of 32 packets, with
// about 1000 in flight.
func BenchmarkSentAndAcked(b *testing.B) {
	const threshold, window = 32, 1024
	d := newLossDetector(nil)
	var (
		rtt rttEstimator
		out ackOutcome
		now = t0
		ack = ackFrame{ranges: make([]ackRange, 1)}
		cc  = newCubic(1200)
	)
	b.ReportAllocs()
	for b.Loop() {
		for range threshold {
			d.sent(now, d.nextPacketNumber(), 1200, true, false, frameRef{kind: 1}, nil)
			cc.OnSent(now, 1200, d.bytesInFlight())
		}
		now = now.Add(300 * time.Microsecond)
		if d.lastSent < window {
			continue
		}
		ack.ranges[0] = ackRange{0, d.lastSent - window}
		out.reset()
		if err := d.onAck(now, &ack, &rtt, 5*ms, &out); err != nil {
			b.Fatal(err)
		}
		out.feed(now, cc, &rtt)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(threshold*b.N), "ns/packet")
}

// What BBR learns of the packets in flight: volumes when a packet left and
// what was lost since.
func TestDeliveryAndLossShare(t *testing.T) {
	d := newLossDetector(nil)
	now := t0
	for range 10 {
		pn := d.nextPacketNumber()
		d.sent(now, pn, 1000, true, false, frameRef{}, nil)
		now = now.Add(ms)
	}
	now = now.Add(40 * ms)
	var rtt rttEstimator
	var out ackOutcome
	if err := d.onAck(now, &ackFrame{ranges: []ackRange{{6, 7}}}, &rtt, 0, &out); err != nil {
		t.Fatal(err)
	}
	// 0 to 4 are below the packet threshold of 7; 5 is not.
	if got, want := out.delivery, (DeliverySpan{Total: 2000, Prior: 0, SentWith: 8000, Lost: 5000, InFlight: 3000}); got != want {
		t.Errorf("delivery = %+v, want %+v", got, want)
	}
	if got, want := out.worstLoss, (LossShare{Size: 1000, SentWith: 1000, Lost: 1000}); got != want {
		t.Errorf("worst loss = %+v, want %+v", got, want)
	}
	out.reset()
	if out.delivery != (DeliverySpan{}) || out.worstLoss != (LossShare{}) {
		t.Error("reset kept the delivery or the worst loss")
	}
}

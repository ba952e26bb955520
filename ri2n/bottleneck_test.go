package ri2n

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A bottleneck is one link with a tail-drop queue, simulated in virtual time
// together with a sender that always has data and a receiver.
type bottleneck struct {
	rate      float64       // bytes per second
	rtt       time.Duration // without queue
	queue     int           // bytes
	mss       int
	loss      float64       // independent, on top of the queue's
	jitter    time.Duration // up to this much more delay for each packet: reordering
	late      time.Duration // how late timers wake
	threshold int           // of the ACK policy
	policer   float64       // bytes that may pass at once; no queue then
	ackSlot   time.Duration // ACKs travel at multiples of it: aggregation
	lossLate  bool          // loss comes after the queue, so what is lost takes capacity
	appRate   float64       // bytes per second that the application offers; zero: no limit
	seed      uint64
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	e := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return e
}

// A bottleneckLink is what the flows of one simulation share.
type bottleneckLink struct {
	now      time.Time
	events   eventHeap
	seq      int
	linkFree time.Time
	dead     bool // nothing passes

	tokens   float64 // of the policer
	tokensAt time.Time
}

// A bottleneckRun is one flow of a simulation.
type bottleneckRun struct {
	bottleneck
	*bottleneckLink
	t   *testing.T
	rng *rand.Rand

	sent     *lossDetector
	rttEst   rttEstimator
	cc       CongestionController
	pacer    pacer
	out      ackOutcome
	ptoCount int
	timer    int // generation of the armed timer
	wake     int // generation of the pacer's

	received receivedPackets
	acks     ackPolicy
	ackTimer int

	sends, drops, lost, spurious, ptos int
	delivered                          int // bytes at the receiver
	offered                            float64
	offeredAt                          time.Time
	trace                              func(*bottleneckRun) // after each ACK
	queueMax                           time.Duration
}

const simAckDelay = 5 * time.Millisecond

func (b bottleneck) run(t *testing.T, cc CongestionController, d time.Duration) *bottleneckRun {
	t.Helper()
	r := b.start(t, cc, &bottleneckLink{now: t0, linkFree: t0})
	r.until(d)
	return r
}

// start begins a flow on a link that others may share.
func (b bottleneck) start(t *testing.T, cc CongestionController, l *bottleneckLink) *bottleneckRun {
	r := &bottleneckRun{bottleneck: b, bottleneckLink: l, t: t, cc: cc, rng: rand.New(rand.NewPCG(b.seed, 7))}
	r.sent = newLossDetector(r.rng)
	r.acks = ackPolicy{threshold: b.threshold, maxAckDelay: simAckDelay}
	r.offeredAt = l.now
	r.flush()
	return r
}

// until runs to d after the start.
func (r *bottleneckLink) until(d time.Duration) {
	end := t0.Add(d)
	for len(r.events) > 0 && !r.events[0].at.After(end) {
		e := heap.Pop(&r.events).(event)
		r.now = e.at
		e.do()
	}
	r.now = end
}

func (r *bottleneckLink) after(at time.Time, do func()) {
	if at.Before(r.now) {
		at = r.now
	}
	r.seq++
	heap.Push(&r.events, event{at, r.seq, do})
}

func (r *bottleneckRun) flush() {
	for r.sent.bytesInFlight()+r.mss <= r.cc.Cwnd() {
		if r.appRate > 0 && !r.offers() {
			break
		}
		if r.pacer.budget(r.now, r.cc.PacingRate(), r.mss, r.cc.Cwnd()) < r.mss {
			r.wake++
			gen := r.wake
			need := 2 * r.mss
			r.after(r.pacer.nextTime(r.now, need).Add(r.late), func() {
				if gen == r.wake {
					r.flush()
				}
			})
			break
		}
		r.transmit()
	}
	r.arm()
}

// offers reports whether the application has a packet to send; otherwise it
// wakes the sender when it will.
func (r *bottleneckRun) offers() bool {
	r.offered += r.appRate * r.now.Sub(r.offeredAt).Seconds()
	r.offeredAt = r.now
	if r.offered >= float64(r.mss) {
		r.offered -= float64(r.mss)
		return true
	}
	r.sent.setAppLimited()
	r.wake++
	gen := r.wake
	r.after(r.now.Add(time.Duration(float64(r.mss)/r.appRate*1e9)), func() {
		if gen == r.wake {
			r.flush()
		}
	})
	return false
}

func (r *bottleneckRun) transmit() {
	pn := r.sent.nextPacketNumber()
	r.sent.sent(r.now, pn, r.mss, true, false, frameRef{kind: 1, offset: uint64(pn)}, nil)
	r.cc.OnSent(r.now, r.mss, r.sent.bytesInFlight())
	r.pacer.sent(r.mss)
	r.sends++

	if r.linkFree.Before(r.now) {
		r.linkFree = r.now
	}
	wait := r.linkFree.Sub(r.now)
	if r.policer > 0 {
		r.tokens = min(r.policer, r.tokens+r.rate*r.now.Sub(r.tokensAt).Seconds())
		r.tokensAt = r.now
		if r.tokens < float64(r.mss) {
			r.drops++
			return
		}
		r.tokens -= float64(r.mss)
		r.linkFree, wait = r.now, 0
	}
	lost := r.rng.Float64() < r.loss
	if r.lossLate && lost && wait.Seconds()*r.rate <= float64(r.queue) {
		r.linkFree = r.linkFree.Add(time.Duration(float64(r.mss) / r.rate * 1e9))
	}
	if wait.Seconds()*r.rate > float64(r.queue) || lost || r.dead {
		r.drops++
		return
	}
	r.queueMax = max(r.queueMax, wait)
	if r.policer == 0 {
		r.linkFree = r.linkFree.Add(time.Duration(float64(r.mss) / r.rate * 1e9))
	}
	arrival := r.linkFree.Add(r.rtt / 2)
	if r.jitter > 0 {
		arrival = arrival.Add(time.Duration(r.rng.Int64N(int64(r.jitter))))
	}
	r.after(arrival, func() { r.arrive(pn) })
}

func (r *bottleneckRun) arrive(pn packetNumber) {
	inOrder := r.received.inOrder(pn)
	if r.received.add(pn) {
		r.t.Fatalf("packet %d arrives twice", pn)
	}
	r.delivered += r.mss
	r.acks.received(r.now, pn, true, !inOrder, false)
	if r.acks.needsAckNow() {
		r.acknowledge()
		return
	}
	r.ackTimer++
	gen := r.ackTimer
	r.after(r.acks.deadline(), func() {
		if gen == r.ackTimer && r.acks.wantsAck() {
			r.acknowledge()
		}
	})
}

func (r *bottleneckRun) acknowledge() {
	ack := &ackFrame{delay: r.acks.delay(r.now), ranges: r.received.appendRanges(nil, maxAckRanges)}
	r.acks.sent()
	back := r.now.Add(r.rtt / 2)
	if r.ackSlot > 0 {
		back = t0.Add((back.Sub(t0)/r.ackSlot + 1) * r.ackSlot)
	}
	r.after(back, func() {
		r.out.reset()
		if err := r.sent.onAck(r.now, ack, &r.rttEst, simAckDelay, &r.out); err != nil {
			r.t.Fatal(err)
		}
		if r.out.newlyAcked > 0 {
			r.ptoCount = 0
		}
		r.apply()
	})
}

func (r *bottleneckRun) apply() {
	r.lost += len(r.out.lost)
	r.spurious += r.out.spurious
	r.out.feed(r.now, r.cc, &r.rttEst)
	if r.trace != nil {
		r.trace(r)
	}
	r.flush()
}

func (r *bottleneckRun) arm() {
	r.timer++
	gen := r.timer
	if at := r.sent.lossTime(); !at.IsZero() {
		r.after(at.Add(r.late), func() {
			if gen == r.timer {
				r.out.reset()
				r.sent.onTimer(r.now, &r.rttEst, &r.out)
				r.apply()
			}
		})
		return
	}
	if at := r.sent.ptoDeadline(&r.rttEst, simAckDelay, r.ptoCount); !at.IsZero() {
		r.after(at.Add(r.late), func() {
			if gen == r.timer {
				r.ptoCount++
				r.ptos++
				r.transmit()
				r.flush()
			}
		})
	}
}

func (r *bottleneckRun) utilisation(from, to time.Duration, deliveredBefore int) float64 {
	return float64(r.delivered-deliveredBefore) / (r.rate * (to - from).Seconds())
}

func (r *bottleneckRun) String() string {
	return fmt.Sprintf("sends %d drops %d lost %d spurious %d PTOs %d cwnd %d srtt %v queue max %v threshold %d",
		r.sends, r.drops, r.lost, r.spurious, r.ptos, r.cc.Cwnd(), r.rttEst.smoothed, r.queueMax, r.sent.threshold)
}

// A flow that always has data fills the link; the first second is start-up.
func TestCubicFillsTheLink(t *testing.T) {
	link := bottleneck{rate: 100e6 / 8, rtt: 40 * ms, queue: 500_000, mss: 1200, seed: 1}
	for _, tt := range []struct {
		name   string
		change func(*bottleneck)
		want   float64
	}{
		{"queue of one BDP", func(*bottleneck) {}, 0.95},
		{"queue of a third", func(b *bottleneck) { b.queue = 170_000 }, 0.90},
		{"deep queue", func(b *bottleneck) { b.queue = 2_500_000 }, 0.95},
		{"timers 2 ms late", func(b *bottleneck) { b.late = 2 * ms }, 0.95},
		{"thin ACKs", func(b *bottleneck) { b.threshold = 32 }, 0.95},
		{"reordering by jitter", func(b *bottleneck) { b.jitter = 2 * ms }, 0.90},
		{"400 Mbit/s", func(b *bottleneck) { b.rate *= 4; b.queue *= 4 }, 0.95},
		{"10 ms", func(b *bottleneck) { b.rtt = 10 * ms; b.queue = 125_000 }, 0.95},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := link
			tt.change(&b)
			const warm, end = 2 * time.Second, 6 * time.Second
			r := b.run(t, newCubic(b.mss), warm)
			early := r.utilisation(0, warm, 0)
			before := r.delivered
			r.until(end)
			got := r.utilisation(warm, end, before)
			t.Logf("first 2 s %.3f, then %.3f: %v", early, got, r)
			if got < tt.want {
				t.Errorf("utilisation = %.3f, want at least %.2f", got, tt.want)
			}
		})
	}
}

// Random loss slows CUBIC down but never stops it, and every packet is in the
// end acknowledged or lost.
func TestRandomLoss(t *testing.T) {
	for _, loss := range []float64{0.001, 0.01, 0.03, 0.12, 0.5} {
		b := bottleneck{rate: 100e6 / 8, rtt: 40 * ms, queue: 500_000, mss: 1200, loss: loss, seed: 9}
		r := b.run(t, newCubic(b.mss), 5*time.Second)
		half := r.delivered
		r.until(20 * time.Second)
		t.Logf("%v %%: %.2f Mbit/s, %v", 100*loss, float64(r.delivered)*8/20e6, r)
		if r.delivered == half {
			t.Errorf("loss of %v: nothing delivered after 5 s: %v", loss, r)
		}
		if r.spurious != 0 {
			t.Errorf("loss of %v: %d spurious losses on a link that keeps order", loss, r.spurious)
		}
		waiting := r.sent.ackElicitingInFlight()
		if n := r.sends*b.mss - r.delivered - r.drops*b.mss; n < 0 || n > waiting*b.mss {
			t.Errorf("loss of %v: %d bytes unaccounted for with %d packets in flight", loss, n, waiting)
		}
	}
}

// After a black-out of two seconds the flow is back within a PTO, and at full
// rate soon after.
func TestBlackout(t *testing.T) {
	b := bottleneck{rate: 100e6 / 8, rtt: 40 * ms, queue: 500_000, mss: 1200, seed: 4}
	r := b.run(t, newCubic(b.mss), 3*time.Second)
	r.dead = true
	r.until(5 * time.Second)
	r.dead = false
	if r.ptos < 3 || r.ptos > 6 {
		t.Errorf("probes in 2 s = %d, want 3 to 6: the interval doubles", r.ptos)
	}
	r.until(8 * time.Second)
	before := r.delivered
	r.until(10 * time.Second)
	if got := r.utilisation(8*time.Second, 10*time.Second, before); got < 0.9 {
		t.Errorf("utilisation 3 s after the black-out = %.3f, want 0.9: %v", got, r)
	}
}

// On a slow link with much jitter it is the time threshold that must learn.
func TestJitterTeachesPatience(t *testing.T) {
	b := bottleneck{rate: 1e6 / 8, rtt: 40 * ms, queue: 20_000, mss: 1200, jitter: 60 * ms, seed: 5}
	r := b.run(t, newCubic(b.mss), 10*time.Second)
	early, sends := r.spurious, r.sends
	r.until(60 * time.Second)
	t.Logf("first 10 s: %d spurious of %d; then %v, patience %d", early, sends, r, r.sent.patience)
	if n := r.spurious - early; n > (r.sends-sends)/100 {
		t.Errorf("spurious losses = %d of %d, want at most 1 %%", n, r.sends-sends)
	}
	if got := r.utilisation(0, 60*time.Second, 0); got < 0.9 {
		t.Errorf("utilisation = %.3f, want 0.9: %v", got, r)
	}
}

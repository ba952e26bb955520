package ri2n

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// queueEpoch is when the tests of datagram queues begin.
var queueEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestDatagramQueueExpiry(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after time.Duration
		want  int // datagrams that pop returns, of three
	}{
		{"at once", 0, 3},
		{"at the limit", 50 * time.Millisecond, 3},
		{"one nanosecond late", 50*time.Millisecond + 1, 2}, // the first is older
		{"all late", time.Second, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var q datagramQueue
			q.push(queueEpoch, 1, []byte("a"))
			q.push(queueEpoch.Add(time.Millisecond), 1, []byte("b"))
			q.push(queueEpoch.Add(time.Millisecond), 2, []byte("c"))
			got := 0
			for {
				b, ok := q.pop(queueEpoch.Add(tt.after), 1500)
				if !ok {
					break
				}
				q.release(b)
				got++
			}
			if got != tt.want || q.drops != uint64(3-tt.want) || q.len() != 0 || len(q.flows) != 0 {
				t.Errorf("popped %d, drops %d, len %d, %d flows; want %d popped and nothing left",
					got, q.drops, q.len(), len(q.flows), tt.want)
			}
			if size := q.peekSize(queueEpoch); size != -1 {
				t.Errorf("peekSize of the empty queue = %d, want -1", size)
			}
		})
	}
}

func TestDatagramQueueDropsFromTheHead(t *testing.T) {
	var q datagramQueue
	for i := range 100 {
		want := 0
		if i >= maxFlowDatagrams {
			want = 1
		}
		if got := q.push(queueEpoch, 7, []byte{byte(i)}); got != want {
			t.Errorf("push %d dropped %d, want %d", i, got, want)
		}
	}
	// Those that are too old go when a new one comes, too.
	if got := q.push(queueEpoch.Add(time.Second), 7, []byte{100}); got != maxFlowDatagrams {
		t.Errorf("push after a second dropped %d, want %d", got, maxFlowDatagrams)
	}
	if b, ok := q.pop(queueEpoch.Add(time.Second), 1500); !ok || b[0] != 100 {
		t.Errorf("pop = %v, %v, want [100]", b, ok)
	}
	if q.drops != 100 || q.len() != 0 {
		t.Errorf("drops %d, len %d, want 100, 0", q.drops, q.len())
	}
}

func TestDatagramQueueRefusesFlows(t *testing.T) {
	var q datagramQueue
	for flow := range uint64(maxFlows + 10) {
		want := 0
		if flow >= maxFlows {
			want = 1
		}
		if got := q.push(queueEpoch, flow, []byte("x")); got != want {
			t.Fatalf("flow %d: dropped %d, want %d", flow, got, want)
		}
	}
	if q.refused != 10 || q.drops != 10 || len(q.flows) != maxFlows {
		t.Errorf("refused %d, drops %d, %d flows", q.refused, q.drops, len(q.flows))
	}
	// A flow that has been served makes room for another.
	if _, ok := q.pop(queueEpoch, 1500); !ok {
		t.Fatal("nothing to pop")
	}
	if got := q.push(queueEpoch, 5000, []byte("x")); got != 0 {
		t.Errorf("after a pop the new flow was refused")
	}
	q.reset()
	if q.len() != 0 || q.flows != nil || q.size != 0 || len(q.turns.ring) > fifoKeep {
		t.Errorf("after reset: len %d, %d flows, %d bytes, %d turns", q.len(), len(q.flows), q.size, len(q.turns.ring))
	}
}

func TestDatagramQueueBoundsBytes(t *testing.T) {
	var q datagramQueue
	big := make([]byte, largeDatagram)
	q.push(queueEpoch, 1_000_000, []byte("small"))
	for i := range 100 * maxFlowDatagrams {
		q.push(queueEpoch, uint64(i%100), big)
		if q.size > maxQueuedBytes {
			t.Fatalf("%d bytes queued, want at most %d", q.size, maxQueuedBytes)
		}
	}
	if q.flows[1_000_000].queue.len() != 1 {
		t.Error("the small flow lost its datagram to the large ones")
	}
	if q.drops != uint64(100*maxFlowDatagrams+1-q.len()) {
		t.Errorf("drops %d, %d left", q.drops, q.len())
	}
	q.reset()
}

func TestDatagramQueueKeepsWhatDoesNotFit(t *testing.T) {
	var q datagramQueue
	q.push(queueEpoch, 1, make([]byte, 1200))
	q.push(queueEpoch, 1, make([]byte, 10))
	if b, ok := q.pop(queueEpoch, 1199); ok {
		t.Errorf("pop into 1199 bytes = %d bytes", len(b))
	}
	q.push(queueEpoch, 1, make([]byte, largeDatagram+1)) // larger than any pooled buffer
	for _, want := range []int{1200, 10, largeDatagram + 1} {
		if got := q.peekSize(queueEpoch); got != want {
			t.Errorf("peekSize = %d, want %d", got, want)
		}
		b, ok := q.pop(queueEpoch, 1<<16)
		if !ok || len(b) != want {
			t.Errorf("pop = %d bytes, %v, want %d", len(b), ok, want)
		}
		q.release(b)
	}
}

// TestDatagramQueueShares lets flows that always have something queued compete:
// each gets the same number of bytes, whatever it pushes.
func TestDatagramQueueShares(t *testing.T) {
	type flow struct{ size, queued int } // bytes of a datagram, datagrams queued at each step
	for _, tt := range []struct {
		name  string
		flows []flow
	}{
		{"a hog with 1000 queued", []flow{{1200, 1000}, {1200, 5}}},
		{"large and small datagrams", []flow{{1400, 64}, {100, 64}}},
		{"jumbo and small datagrams", []flow{{9000, 64}, {300, 64}}},
		{"five", []flow{{1400, 64}, {700, 64}, {90, 64}, {1000, 64}, {15000, 64}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var (
				q    datagramQueue
				got  = make([]int, len(tt.flows))
				need = make([]int, len(tt.flows)) // to be pushed before the next pop
			)
			for i, f := range tt.flows {
				need[i] = f.queued
			}
			sum := 0
			for sum < 10<<20 {
				for i, f := range tt.flows {
					p := make([]byte, f.size)
					p[0] = byte(i)
					for ; need[i] > 0; need[i]-- {
						q.push(queueEpoch, uint64(i), p)
					}
				}
				b, ok := q.pop(queueEpoch, 16000)
				if !ok {
					t.Fatal("nothing to pop")
				}
				got[b[0]] += len(b)
				need[b[0]]++
				sum += len(b)
				q.release(b)
			}
			fair := sum / len(tt.flows)
			for i, n := range got {
				// Deficit round robin is off by at most one datagram and one quantum.
				if diff := n - fair; diff > 20000 || diff < -20000 {
					t.Errorf("flow %d: %d bytes of %d, fair is %d", i, n, sum, fair)
				}
			}
		})
	}
}

// TestDatagramQueueAgainstModel checks, under random use, that each flow's
// datagrams come out in order, whole and young, and that each that went in
// comes out or is counted.
func TestDatagramQueueAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		var (
			rng    = rand.New(rand.NewPCG(seed, 4))
			q      datagramQueue
			now    = queueEpoch
			pushed = map[uint64]uint32{} // datagrams pushed, by flow
			last   = map[uint64]uint32{} // number of the last popped, by flow
			total  = 0
			popped = 0
		)
		for step := range 5000 {
			switch rng.IntN(5) {
			case 0, 1, 2:
				flow := rng.Uint64N(1 + seed*3)
				pushed[flow]++
				total++
				p := patternBytes(0, 20+rng.IntN(3000))
				binary.BigEndian.PutUint64(p, flow)
				binary.BigEndian.PutUint32(p[8:], pushed[flow])
				binary.BigEndian.PutUint64(p[12:], uint64(now.Sub(queueEpoch)))
				q.push(now, flow, p)
				clear(p) // the queue has its own copy
			case 3:
				max := rng.IntN(4000)
				size := q.peekSize(now)
				p, ok := q.pop(now, max)
				if ok != (size >= 0 && size <= max) || ok && len(p) != size {
					t.Fatalf("seed %d, step %d: peekSize %d, pop(%d) = %d bytes, %v", seed, step, size, max, len(p), ok)
				}
				if !ok {
					continue
				}
				popped++
				flow, number := binary.BigEndian.Uint64(p), binary.BigEndian.Uint32(p[8:])
				age := now.Sub(queueEpoch) - time.Duration(binary.BigEndian.Uint64(p[12:]))
				if number <= last[flow] || age > maxFlowDelay {
					t.Fatalf("seed %d, step %d: flow %d: number %d after %d, age %v", seed, step, flow, number, last[flow], age)
				}
				for i := 20; i < len(p); i++ {
					if p[i] != pattern(uint64(i)) {
						t.Fatalf("seed %d, step %d: byte %d has changed", seed, step, i)
					}
				}
				last[flow] = number
				q.release(p)
			case 4:
				now = now.Add(time.Duration(rng.IntN(20)) * time.Millisecond)
			}
			if popped+q.len()+int(q.drops) != total {
				t.Fatalf("seed %d, step %d: %d pushed; %d popped, %d queued, %d dropped", seed, step, total, popped, q.len(), q.drops)
			}
		}
		q.reset()
		if popped+int(q.drops) != total || q.size != 0 || popped == 0 {
			t.Errorf("seed %d: %d pushed; %d popped, %d dropped; %d bytes left", seed, total, popped, q.drops, q.size)
		}
	}
}

func TestDatagramQueueAllocatesNothing(t *testing.T) {
	if underRace() {
		t.Skip("the race detector makes sync.Pool drop items at random")
	}
	var q datagramQueue
	p := make([]byte, 1200)
	single := func() {
		q.push(queueEpoch, 1, p)
		b, _ := q.pop(queueEpoch, 1500)
		q.release(b)
	}
	single()
	if got := testing.AllocsPerRun(200, single); got != 0 {
		t.Errorf("%v allocations for each datagram, want 0", got)
	}
}

func TestDatagramInbox(t *testing.T) {
	var q datagramInbox
	if _, ok := q.pop(); ok {
		t.Error("pop of an empty inbox")
	}
	p := make([]byte, 2)
	for i := range maxInboxDatagrams + 3 {
		binary.BigEndian.PutUint16(p, uint16(i))
		if got, want := q.push(p), i >= maxInboxDatagrams; got != want {
			t.Errorf("push %d dropped: %v, want %v", i, got, want)
		}
	}
	if q.drops != 3 || q.len() != maxInboxDatagrams {
		t.Errorf("drops %d, len %d", q.drops, q.len())
	}
	for i := 3; q.len() > 0; i++ {
		if b, ok := q.pop(); !ok || int(binary.BigEndian.Uint16(b)) != i {
			t.Fatalf("pop = %x, %v, want %d", b, ok, i)
		}
	}
	q.push(nil)
	if b, ok := q.pop(); !ok || b == nil || len(b) != 0 {
		t.Errorf("empty datagram: pop = %v, %v", b, ok)
	}
	// Whoever reads in batches may be behind by more.
	q.batches = true
	for i := range maxBatchInboxDatagrams + 3 {
		binary.BigEndian.PutUint16(p, uint16(i))
		q.push(p)
	}
	list := make([][]byte, maxBatchInboxDatagrams+1)
	n := q.popBatch(list)
	if n != maxBatchInboxDatagrams || q.len() != 0 || q.size != 0 || q.drops != 6 {
		t.Fatalf("popBatch = %d, %d left of %d bytes, %d drops", n, q.len(), q.size, q.drops)
	}
	for i, b := range list[:n] {
		if got := int(binary.BigEndian.Uint16(b[DatagramRoom:])); got != i+3 || len(b) != DatagramRoom+2 {
			t.Fatalf("datagram %d of a batch is %d, in %d bytes", i, got, len(b))
		}
	}
	ReleaseDatagrams(list[:n])
	if list[0] != nil {
		t.Error("the list still holds what was handed back")
	}
}

// A flow may hold what its path carries while a datagram is young enough.
func TestDatagramQueueShare(t *testing.T) {
	for _, tt := range []struct{ share, size, want int }{
		{0, 1000, maxFlowDatagrams},
		{minFlowBytes, 1, minFlowBytes / minDatagramWeight},
		{minFlowBytes, 4 << 10, maxFlowDatagrams},
		{1 << 20, 1 << 10, 1 << 10},
	} {
		q := datagramQueue{share: tt.share}
		b := make([]byte, tt.size)
		for range 2 * tt.want {
			q.push(queueEpoch, 1, b)
		}
		if q.len() != tt.want {
			t.Errorf("share %d, datagrams of %d: %d queued, want %d", tt.share, tt.size, q.len(), tt.want)
		}
		q.reset()
	}
}

func BenchmarkDatagramQueue(bm *testing.B) {
	for _, flows := range []int{1, 100} {
		bm.Run(fmt.Sprintf("flows=%d", flows), func(bm *testing.B) {
			var q datagramQueue
			p := make([]byte, 1200)
			bm.SetBytes(int64(len(p)))
			bm.ReportAllocs()
			for i := 0; bm.Loop(); i++ {
				q.push(queueEpoch, uint64(i%flows), p)
				if q.len() > flows {
					b, _ := q.pop(queueEpoch, 1500)
					q.release(b)
				}
			}
			q.reset()
		})
	}
}

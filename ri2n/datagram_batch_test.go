package ri2n

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// sendNumbered sends datagrams of size bytes that begin with their number, in
// batches, until ctx ends. What a busy computer is too slow for gets lost.
func sendNumbered(ctx context.Context, t testing.TB, s *Session, size, batch int) {
	list := make([][]byte, batch)
	for i := range list {
		list[i] = make([]byte, size)
	}
	for n := 0; ctx.Err() == nil; n += batch {
		for i := range list {
			binary.BigEndian.PutUint32(list[i], uint32(n+i))
		}
		if taken, err := s.SendDatagrams(1, list); err != nil || taken != batch {
			t.Errorf("SendDatagrams = %d, %v", taken, err)
			return
		}
		for s.datagramsQueued() > 128 && ctx.Err() == nil {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

func (s *Session) datagramsQueued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datagrams.len()
}

// Datagrams arrive whole, in order, and in batches.
func TestDatagramBatches(t *testing.T) {
	client, server := loopbackPair(t)
	const count, size, batch = 4096, 1100, 64
	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	sending.Go(func() { sendNumbered(ctx, t, client, size, batch) })
	defer sending.Wait()
	defer cancel()
	list := make([][]byte, 256)
	next, got, calls := uint32(0), 0, 0
	for ; got < count; calls++ {
		n, err := server.ReceiveDatagrams(ctx, list)
		if err != nil {
			t.Fatal(err)
		}
		got += n
		for _, b := range list[:n] {
			d := b[DatagramRoom:]
			if number := binary.BigEndian.Uint32(d); number < next || len(d) != size {
				t.Fatalf("datagram %d of %d bytes, want %d or a later one of %d", number, len(d), next, size)
			}
			next = binary.BigEndian.Uint32(d) + 1
		}
		ReleaseDatagrams(list[:n])
	}
	t.Logf("%d datagrams in %d batches", got, calls)
}

// Datagrams that leave room in their packets leave in one burst all the same:
// its packets have one size.
func TestDatagramsShareABurst(t *testing.T) {
	client, _ := loopbackPair(t)
	client.mu.Lock()
	defer client.mu.Unlock()
	now := time.Now()
	client.datagrams = new(datagramQueue)
	d := make([]byte, client.maxDatagramSize()-100)
	for range 6 {
		client.datagrams.push(now, 1, d)
	}
	tr := &transmission{buf: make([]byte, 0, 64<<10)}
	if p := client.buildBurst(now, tr); p == nil || tr.count < 3 {
		t.Fatalf("%d packets in the first burst", tr.count)
	}
	for i, end := range tr.ends[:tr.count] {
		if want := (i + 1) * tr.size; end != want && (i < tr.count-1 || end > want) {
			t.Errorf("packet %d of a burst with packets of %d ends at %d", i, tr.size, end)
		}
	}
	if tr.size >= client.sending.packetSize() {
		t.Errorf("packets of %d bytes for datagrams of %d", tr.size, len(d))
	}
}

// Mixed sizes, with short ones together in one packet: each arrives, in the end,
// as it was sent.
func TestDatagramsOfManySizes(t *testing.T) {
	client, server := loopbackPair(t)
	const count = 200
	size := func(i int) int { return 4 + (i*397)%1100 }
	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	sending.Go(func() {
		list := make([][]byte, 1)
		for i := 0; ctx.Err() == nil; i = (i + 1) % count {
			list[0] = make([]byte, size(i))
			binary.BigEndian.PutUint32(list[0], uint32(i))
			if _, err := client.SendDatagrams(7, list); err != nil {
				t.Error(err)
				return
			}
			if i%32 == 31 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	defer sending.Wait()
	defer cancel()
	seen := make(map[int]bool)
	for len(seen) < count {
		b, err := server.ReceiveDatagram(ctx)
		if err != nil {
			t.Fatal(err)
		}
		i := int(binary.BigEndian.Uint32(b))
		if len(b) != size(i) {
			t.Fatalf("datagram %d has %d bytes, want %d", i, len(b), size(i))
		}
		seen[i] = true
	}
}

func TestSendDatagramsStopsAtOneTooLarge(t *testing.T) {
	client, _ := loopbackPair(t)
	list := [][]byte{make([]byte, 10), make([]byte, client.MaxDatagramSize()+1), make([]byte, 10)}
	n, err := client.SendDatagrams(1, list)
	if n != 1 || !errors.Is(err, ErrDatagramTooLarge) {
		t.Errorf("SendDatagrams = %d, %v; want 1, %v", n, err, ErrDatagramTooLarge)
	}
	client.Close()
	if n, err := client.SendDatagrams(1, list[:1]); n != 0 || err == nil {
		t.Errorf("after Close: %d, %v", n, err)
	}
}

// BenchmarkDatagramsLoopback is what a tunnel sends: bursts of packets of one
// size, both ends in this process.
func BenchmarkDatagramsLoopback(b *testing.B) {
	for _, size := range []int{1100, 1400} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			client, server := loopbackPair(b)
			for client.MaxDatagramSize() < size {
				time.Sleep(time.Millisecond)
			}
			const batch = 50
			list := make([][]byte, batch)
			for i := range list {
				list[i] = make([]byte, size)
			}
			got := 0
			go func() {
				list := make([][]byte, 256)
				for {
					n, err := server.ReceiveDatagrams(b.Context(), list)
					if err != nil {
						return
					}
					got += n
					ReleaseDatagrams(list[:n])
				}
			}()
			b.SetBytes(int64(batch * size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.SendDatagrams(1, list); err != nil {
					b.Fatal(err)
				}
				for client.datagramsQueued() > 2*batch {
					time.Sleep(20 * time.Microsecond)
				}
			}
			s := client.endpoint.Stats()
			b.ReportMetric(float64(s.DatagramsSent)/float64(s.Bursts), "packets/burst")
			b.ReportMetric(100*float64(got)/float64(b.N*batch), "%arrived")
		})
	}
}

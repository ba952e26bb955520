package ri2n

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"
)

// sendNumbered sends datagrams of size bytes that begin with their number, in
// batches, until count have been sent.
func sendNumbered(t testing.TB, s *Session, count, size, batch int) {
	list := make([][]byte, batch)
	for i := range list {
		list[i] = make([]byte, size)
	}
	for n := 0; n < count; n += batch {
		for i := range list {
			binary.BigEndian.PutUint32(list[i], uint32(n+i))
		}
		if taken, err := s.SendDatagrams(1, list); err != nil || taken != batch {
			t.Errorf("SendDatagrams = %d, %v", taken, err)
			return
		}
		// What is queued for too long is dropped.
		for s.datagramsQueued() > 128 {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

func (s *Session) datagramsQueued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datagrams.len()
}

// Datagrams that are shorter than a packet leave in whole bursts all the same,
// and arrive whole, in order, and in batches.
func TestDatagramBatches(t *testing.T) {
	client, server := loopbackPair(t)
	const count, size, batch = 8192, 1100, 64
	done := make(chan error, 1)
	go func() {
		list := make([][]byte, 256)
		next, calls := uint32(0), 0
		for next < count {
			n, err := server.ReceiveDatagrams(t.Context(), list)
			if err != nil {
				done <- err
				return
			}
			calls++
			for _, b := range list[:n] {
				d := b[DatagramRoom:]
				if got := binary.BigEndian.Uint32(d); got < next || len(d) != size {
					done <- fmt.Errorf("datagram %d of %d bytes, want %d or a later one of %d", got, len(d), next, size)
					return
				}
				next = binary.BigEndian.Uint32(d) + 1
			}
			ReleaseDatagrams(list[:n])
		}
		done <- nil
	}()
	before := client.endpoint.Stats()
	sendNumbered(t, client, count, size, batch)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the last datagram has not arrived")
	}
	s := client.endpoint.Stats()
	if bursts := s.Bursts - before.Bursts; bursts > count/8 {
		t.Errorf("%d datagrams in %d bursts", count, bursts)
	}
}

// Mixed sizes, with short ones together in one packet.
func TestDatagramsOfManySizes(t *testing.T) {
	client, server := loopbackPair(t)
	var want []int
	for i := range 200 {
		want = append(want, 4+(i*397)%1100)
	}
	list := make([][]byte, 1)
	for i, n := range want {
		list[0] = make([]byte, n)
		binary.BigEndian.PutUint32(list[0], uint32(i))
		if _, err := client.SendDatagrams(7, list); err != nil {
			t.Fatal(err)
		}
		if i%32 == 31 {
			time.Sleep(time.Millisecond)
		}
	}
	for i, n := range want {
		b, err := server.ReceiveDatagram(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint32(b); int(got) != i || len(b) != n {
			t.Fatalf("datagram %d has %d bytes, want %d of %d", got, len(b), i, n)
		}
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

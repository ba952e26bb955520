package ri2n

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// TestDatagramsKeepTheirOrder within a flow, and are dropped and counted where
// they do not fit.
func TestDatagramsKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Link{Delay: 5 * time.Millisecond, Rate: 10e6})
		const flows, each = 4, 2000
		size := client.MaxDatagramSize()
		if err := client.SendDatagram(0, make([]byte, size+1)); err != ErrDatagramTooLarge {
			t.Errorf("err = %v, want %v", err, ErrDatagramTooLarge)
		}
		if err := client.SendDatagram(0, make([]byte, size)); err != nil {
			t.Error(err)
		}
		got := make([]int, flows)
		var last [flows]uint64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				b, err := server.ReceiveDatagram(t.Context())
				if err != nil {
					return
				}
				if len(b) == size {
					continue
				}
				flow, n := b[0], binary.BigEndian.Uint64(b[1:])
				if n <= last[flow] && got[flow] > 0 {
					t.Errorf("flow %d: datagram %d after %d", flow, n, last[flow])
				}
				last[flow] = n
				got[flow]++
			}
		}()
		for n := range each {
			for flow := range flows {
				b := binary.BigEndian.AppendUint64([]byte{byte(flow)}, uint64(n+1))
				if err := client.SendDatagram(uint64(flow), append(b, make([]byte, 491)...)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Millisecond) // 16 Mbit/s on a link of 10
		}
		time.Sleep(time.Second)
		client.Close()
		<-done
		total := 0
		for flow, n := range got {
			total += n
			if share := float64(n) / each; share < 0.4 || share > 0.8 {
				t.Errorf("flow %d: %d of %d arrived", flow, n, each)
			}
		}
		dropped := int(client.endpoint.Stats().DatagramQueueDropped)
		lost := 0
		for _, p := range client.Paths() {
			lost += int(p.PacketsLost)
		}
		if dropped == 0 || total+dropped > flows*each {
			t.Errorf("received %d, dropped from the queue %d, of %d", total, dropped, flows*each)
		}
		if _, err := server.ReceiveDatagram(t.Context()); err == nil {
			t.Error("a datagram came after the end")
		}
		if err := client.SendDatagram(0, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after Close: %v, want %v", err, net.ErrClosed)
		}
	})
}

// TestDeadlinesWhileBlocked on a full window and an empty buffer.
func TestDeadlinesWhileBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		a, b := streamPair(t, client, server)
		begun := time.Now()
		a.SetDeadline(begun.Add(time.Second))
		n, err := a.Write(make([]byte, 8<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < initialStreamWindow || n >= 8<<20 {
			t.Errorf("write = %d, %v; want part of it and %v", n, err, os.ErrDeadlineExceeded)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want %v", err, os.ErrDeadlineExceeded)
		}
		if got := time.Since(begun); got != time.Second {
			t.Errorf("both took %v, want 1 s", got)
		}
		a.SetDeadline(time.Time{})
		a.CloseWrite()
		if m, err := io.Copy(io.Discard, b); m != int64(n) || err != nil {
			t.Errorf("peer read %d bytes, %v; want %d", m, err, n)
		}
		begun = time.Now()
		time.AfterFunc(time.Second, func() { a.SetReadDeadline(time.Now()) })
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("read: %v after %v", err, time.Since(begun))
		}
	})
}

// TestCloseLingers: up to 5 s for a peer that reads slowly, then CLOSE.
func TestCloseLingers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reads bool
		cut   bool
		want  time.Duration
	}{
		{"peer reads", true, false, 200 * time.Millisecond},
		{"peer does not read", false, false, 5200 * time.Millisecond},
		{"peer is gone", false, true, 5500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				client, server := s.connect()
				a, b := streamPair(t, client, server)
				go func() {
					a.Write(make([]byte, initialStreamWindow+200<<10))
					a.Close()
				}()
				if tt.reads {
					go io.Copy(io.Discard, b)
				}
				time.Sleep(300 * time.Millisecond)
				a.SetWriteDeadline(time.Now())
				synctest.Wait()
				a.Close()
				if tt.cut {
					s.ca.setRule(dropAll)
				}
				begun := time.Now()
				client.Close()
				client.Close()
				if !isClosed(client.Done()) || !errors.Is(client.Err(), net.ErrClosed) {
					t.Errorf("session after Close: %v", client.Err())
				}
				<-client.Ended()
				if got := time.Since(begun); got > tt.want || got < tt.want-700*time.Millisecond {
					t.Errorf("lingered for %v, want about %v", got, tt.want)
				}
				if !tt.cut {
					<-server.Done()
				}
			})
		})
	}
}

// TestEndpointClose may be called often and at once, in the middle of things.
func TestEndpointClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		client, server := s.connect()
		a, b := streamPair(t, client, server)
		var running sync.WaitGroup
		for _, st := range []*Stream{a, b} {
			running.Go(func() {
				for {
					if _, err := st.Write(make([]byte, 10000)); err != nil {
						return
					}
				}
			})
			running.Go(func() { io.Copy(io.Discard, st) })
		}
		running.Go(func() { client.AcceptStream(t.Context()) })
		running.Go(func() { client.ReceiveDatagram(t.Context()) })
		running.Go(func() { s.a.Accept(t.Context()) })
		running.Go(func() {
			client.AddPath(t.Context(), Remote{Link: s.la, Addr: netip.MustParseAddrPort("203.0.113.9:9")})
		})
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		for range 3 {
			running.Go(func() { s.a.Close() })
		}
		running.Wait()
		s.a.Close()
		if got := time.Since(begun); got > 6*time.Second {
			t.Errorf("Close took %v", got)
		}
		select {
		case <-server.Done():
		case <-time.After(time.Second):
			t.Error("the peer was not told")
		}
		if got := len(s.a.sessions) + len(s.a.routes.short) + len(s.a.routes.long) + len(s.a.routes.resets); got != 0 {
			t.Errorf("%d entries remain in the tables of a closed endpoint", got)
		}
	})
}

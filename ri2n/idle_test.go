//go:build !race

package ri2n

import (
	"context"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"
	"unsafe"
)

func TestSizes(t *testing.T) {
	t.Logf("Session %d path %d loss %d cubic %d bbr %d newreno %d pacer %d stream %d keys %d gen %d route %d handshake %d sent %d ackOutcome %d recv %d pmtu %d dq %d inbox %d",
		unsafe.Sizeof(Session{}), unsafe.Sizeof(path{}), unsafe.Sizeof(lossDetector{}), unsafe.Sizeof(cubic{}), unsafe.Sizeof(bbr{}), unsafe.Sizeof(newReno{}), unsafe.Sizeof(pacer{}),
		unsafe.Sizeof(Stream{}), unsafe.Sizeof(packetKeys{}), unsafe.Sizeof(keyGeneration{}), unsafe.Sizeof(route{}), unsafe.Sizeof(handshake{}), unsafe.Sizeof(sentPacket{}), unsafe.Sizeof(ackOutcome{}), unsafe.Sizeof(receivedPackets{}), unsafe.Sizeof(pmtuSearch{}), unsafe.Sizeof(datagramQueue{}), unsafe.Sizeof(datagramInbox{}))
}

func TestIdleMem(t *testing.T) {
	const n = 500
	net := newMemoryNet()
	a, b := newTestEndpoint(t), newTestEndpoint(t)
	la, lb := net.link(t, a), net.link(t, b)
	var sessions []any
	var mu sync.Mutex
	open := func(n int) {
		var wg sync.WaitGroup
		todo := make(chan int, n)
		for i := range n {
			todo <- i
		}
		close(todo)
		for range 4 {
			wg.Go(func() {
				for range todo {
					s, err := a.Dial(context.Background(), b.PeerID(), Remote{Link: la, Addr: linkAddr(lb)})
					if err != nil {
						t.Error(err)
						return
					}
					st, _ := s.OpenStream(context.Background())
					st.Write([]byte{1})
					p, err := b.Accept(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					pst, err := p.AcceptStream(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					var buf [1]byte
					pst.Read(buf[:])
					pst.Write(buf[:])
					st.Read(buf[:])
					mu.Lock()
					sessions = append(sessions, s, p, st, pst)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	open(50)
	time.Sleep(3 * time.Second)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	g := runtime.NumGoroutine()
	start := time.Now()
	open(n)
	t.Logf("%v per session", time.Since(start)/n)
	time.Sleep(12 * time.Second)
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes for each end, goroutines %d -> %d", (after.HeapAlloc-before.HeapAlloc)/n/2, g, runtime.NumGoroutine())
	if f := os.Getenv("HEAP"); f != "" {
		w, _ := os.Create(f)
		pprof.Lookup("heap").WriteTo(w, 0)
		w.Close()
	}
	runtime.KeepAlive(sessions)
}

package ri2n

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// What is written owned and read as views arrives whole, over a path that
// loses packets, and every block is released once.
func TestOwnedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Link{Delay: 5 * time.Millisecond, Rate: 100e6, Loss: 0.02})
		a, b := streamPair(t, client, server)
		const blocks = 200
		rng := rand.New(rand.NewPCG(1, 1))
		var released [blocks]atomic.Int32
		var want []byte
		var queue [][]byte
		for range blocks {
			block := make([]byte, 1+rng.IntN(30_000))
			for i := range block {
				block[i] = byte(rng.Uint32())
			}
			queue = append(queue, block)
			want = append(want, block...)
		}
		go func() {
			for i, block := range queue {
				if err := a.WriteOwned(block, func() {
					released[i].Add(1)
					clear(block) // nobody looks any more
				}); err != nil {
					t.Errorf("write of block %d: %v", i, err)
					return
				}
			}
			a.CloseWrite()
		}()
		var got []byte
		for {
			views, release, err := b.ReadBuffers(100_000)
			for _, v := range views {
				got = append(got, v...)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			release()
			release() // may be called again
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, want the %d that were sent", len(got), len(want))
		}
		time.Sleep(time.Second)
		for i := range released {
			if n := released[i].Load(); n != 1 {
				t.Errorf("block %d was released %d times, want once", i, n)
			}
		}
		client.endpoint.Close()
		server.endpoint.Close()
	})
}

// Views stay as they are while more arrives, until they are released.
func TestViewsKeepTheirBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Link{Delay: time.Millisecond})
		a, b := streamPair(t, client, server)
		if _, err := a.Write(bytes.Repeat([]byte{1}, 1000)); err != nil {
			t.Fatal(err)
		}
		first, release, err := b.ReadBuffers(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			go a.Write(bytes.Repeat([]byte{2}, 50_000))
			if _, err := io.ReadFull(b, make([]byte, 50_000)); err != nil {
				t.Fatal(err)
			}
		}
		if got := bytes.Join(first, nil); !bytes.Equal(got, bytes.Repeat([]byte{1}, 1000)) {
			t.Errorf("a view has changed")
		}
		release()
		client.endpoint.Close()
		server.endpoint.Close()
	})
}

func TestOwnedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := simPair(t, 1, netsim.Link{Delay: time.Millisecond})
		a, b := streamPair(t, client, server)
		releases := 0
		release := func() { releases++ }

		b.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if views, _, err := b.ReadBuffers(10); !errors.Is(err, os.ErrDeadlineExceeded) || views != nil {
			t.Errorf("ReadBuffers after the deadline = %v, %v", views, err)
		}
		if views, _, err := b.ReadBuffers(0); len(views) != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ReadBuffers of nothing = %v, %v", views, err)
		}

		// Nobody reads, so credit and buffer run out.
		block := make([]byte, 100<<10)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		written := 0
		var err error
		for ; err == nil; written++ {
			err = a.WriteOwned(block, release)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("WriteOwned against a full buffer = %v, want the deadline", err)
		}
		if size := written * len(block); size > 4<<20 {
			t.Errorf("%d bytes were taken without a reader", size)
		}
		a.SetWriteDeadline(time.Time{})
		a.Reset(7)
		if err := a.WriteOwned(block, release); !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteOwned on a reset stream = %v, want net.ErrClosed", err)
		}
		time.Sleep(time.Second)
		if releases != written+1 {
			t.Errorf("%d blocks released of %d", releases, written+1)
		}
		if _, _, err := b.ReadBuffers(10); err == nil {
			t.Error("ReadBuffers on a reset stream returns no error")
		}
		client.endpoint.Close()
		server.endpoint.Close()
	})
}

package links_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/ri2n/links"
)

const port = 7000

func newEndpoint(t *testing.T) *ri2n.Endpoint {
	t.Helper()
	id, err := ri2n.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ri2n.NewEndpoint(ri2n.Config{Identity: id, Authorize: func(ri2n.PeerID) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// namespaceOf returns the host's network namespace.
func namespaceOf(t *testing.T, h *kernel.Host) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	err := h.Do(func() (err error) {
		ns, err = netns.Get()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// TestUplinkGoesAndComes sets one of two uplinks of a host down and up again
// during a transfer: the watcher closes and opens links, the session follows,
// and nothing is lost.
func TestUplinkGoesAndComes(t *testing.T) {
	slow := netsim.Link{Delay: 5 * time.Millisecond, Rate: 50e6}
	pair, err := kernel.StartPair(1, slow, slow)
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	a, b := newEndpoint(t), newEndpoint(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = pair.Host(1).Do(func() error {
		for i := range 2 {
			pc, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(pair.Addr(1, i), port)))
			if err != nil {
				return err
			}
			if _, err := b.AddLink(kernel.PairDevice(i), pc); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// The other end of each interface's link.
	toward := func(at links.Address) (netip.AddrPort, bool) {
		for i := range 2 {
			if at.Interface == kernel.PairDevice(i) {
				return netip.AddrPortFrom(pair.Addr(1, i), port), true
			}
		}
		return netip.AddrPort{}, false
	}
	var mu sync.Mutex
	open := make(map[links.Address]*ri2n.Link)
	ups := make(chan ri2n.Remote, 16) // links that came
	gone := make(chan string, 16)
	var watching sync.WaitGroup
	inside := namespaceOf(t, pair.Host(0))
	watching.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(inside); err != nil {
			t.Error(err)
			return
		}
		links.Watch(ctx, links.Config{Settle: 50 * time.Millisecond}, func(c links.Change) {
			mu.Lock()
			defer mu.Unlock()
			for _, at := range c.Gone {
				if l := open[at]; l != nil {
					l.Close()
					delete(open, at)
					gone <- at.Interface
				}
			}
			for _, at := range c.New {
				remote, ok := toward(at)
				if !ok {
					continue
				}
				pc, err := links.Listen(ctx, at, 0)
				if err != nil {
					t.Error(err)
					continue
				}
				l, err := a.AddLink(at.Interface, pc)
				if err != nil {
					t.Error(err)
					continue
				}
				open[at] = l
				ups <- ri2n.Remote{Link: l, Addr: remote}
			}
		})
	})
	defer watching.Wait()
	defer cancel()

	next := func(c chan ri2n.Remote) ri2n.Remote {
		select {
		case r := <-c:
			return r
		case <-ctx.Done():
			t.Fatal("no link has come")
		}
		panic("unreachable")
	}
	session, err := a.Dial(ctx, b.PeerID(), next(ups))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.AddPath(ctx, next(ups)); err != nil {
		t.Fatal(err)
	}
	server, err := b.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st, err := session.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}

	set := func(change func(netlink.Link) error) {
		t.Helper()
		err := pair.Host(0).Do(func() error {
			l, err := netlink.LinkByName(kernel.PairDevice(0))
			if err != nil {
				return err
			}
			return change(l)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	sent := sha256.New()
	chunk := make([]byte, 256<<10)
	rand.Read(chunk)
	stop := make(chan struct{})
	writer := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				writer <- st.CloseWrite()
				return
			default:
			}
			sent.Write(chunk)
			if _, err := st.Write(chunk); err != nil {
				writer <- err
				return
			}
		}
	}()
	in, err := server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	in.SetReadDeadline(time.Now().Add(time.Minute))
	got := sha256.New()
	received := make(chan error, 1)
	var bytes int64
	go func() {
		var err error
		bytes, err = io.Copy(got, in)
		received <- err
	}()

	time.Sleep(300 * time.Millisecond)
	set(netlink.LinkSetDown)
	select {
	case name := <-gone:
		if name != kernel.PairDevice(0) {
			t.Errorf("%s went, want %s", name, kernel.PairDevice(0))
		}
	case <-ctx.Done():
		t.Fatal("nobody noticed that the interface went")
	}
	for _, p := range session.Paths() {
		if p.Link == kernel.PairDevice(0) {
			t.Errorf("a path on the interface that went is %v", p.State)
		}
	}
	time.Sleep(300 * time.Millisecond)
	set(netlink.LinkSetUp)
	again := next(ups)
	path, err := session.AddPath(ctx, again)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	var carried uint64
	for _, p := range session.Paths() {
		if p.ID == path.ID {
			carried = p.BytesSent
		}
	}
	close(stop)
	if err := <-writer; err != nil {
		t.Fatal(err)
	}
	if err := <-received; err != nil {
		t.Fatalf("read after %d bytes: %v", bytes, err)
	}
	if [32]byte(got.Sum(nil)) != [32]byte(sent.Sum(nil)) {
		t.Error("what arrived is not what was sent")
	}
	if carried < 100_000 {
		t.Errorf("the interface that came back carried %d bytes", carried)
	}
	t.Logf("%d bytes; the interface that came back carried %d; %+v", bytes, carried, session.Stats().Stalls)
}

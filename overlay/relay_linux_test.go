package overlay

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/server"
)

// relayChild makes this test's binary a process of relayedWorld: what it is,
// and its directory.
const relayChild = "INSTANTGRID_TEST_RELAY"

// TestRelayChild is the rendezvous, or a member that relays, until SIGTERM.
func TestRelayChild(t *testing.T) {
	plan := strings.Fields(os.Getenv(relayChild))
	if len(plan) != 2 {
		t.Skip("runs as a child of relayedWorld")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if plan[0] == "rendezvous" {
		pc, err := net.ListenPacket("udp4", ":3478")
		if err != nil {
			t.Fatal(err)
		}
		s, err := server.New(server.Config{Identity: identity(t, serverIdentity), Listen: []net.PacketConn{pc}, Mode: server.Open})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	} else {
		n, err := Start(t.Context(), Config{Dir: plan[1], Identity: identity(t, 20)})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
	}
	fmt.Println("ready")
	<-stop
}

// A relayedWorld is two members in the kernel's namespaces whose packets never
// reach each other directly, a rendezvous and a member that relays, each in a
// process of its own.
type relayedWorld struct {
	*gridRig
	network    *kernel.Network
	alice, bob *Node
	rendezvous *kernel.Cmd
	relay      *kernel.Cmd
}

func newRelayedWorld(t *testing.T, access netsim.Link, direct, separate bool) *relayedWorld {
	t.Helper()
	sc := netsim.Scenario{Seed: 1, Hosts: []netsim.HostNode{{Name: "rendezvous"}, {Name: "relay", Uplink: access}, {Name: "alice", Uplink: access}, {Name: "bob", Uplink: access}}}
	network, err := kernel.Start(sc)
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	if !direct {
		if err := network.Block("alice", "bob"); err != nil {
			t.Fatal(err)
		}
	}
	w := &relayedWorld{network: network}
	public := network.Host("rendezvous")
	w.gridRig = foundGrid(t, &rig{t: t, public: public, hostA: network.Host("alice"), hostB: network.Host("bob"), mode: server.Open})
	plain := w.invite(membership.InviteOptions{Uses: 2})
	dirs := []string{w.join(w.hostA, 2, "alice", plain), w.join(w.hostB, 3, "bob", plain)}
	writePolicy(t, dirs[1], "rules:\n  - names: [\"*\"]\n    ports: [all]\n")
	relayDir := w.join(network.Host("relay"), 20, "relay", w.invite(membership.InviteOptions{Uses: 1, Roles: membership.Relay}))
	w.relay = w.child("relay", relayDir)

	// The members learn of each other while the ledger is there.
	for i, h := range []netsim.Host{w.hostA, w.hostB} {
		n, err := Start(t.Context(), Config{Dir: dirs[i], Identity: identity(t, 2+i), Links: []LinkConfig{{Name: "eth0", Conn: listenPacket(t, h, 0)}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		w.ready(n)
		if _, err := n.Members(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			w.alice = n
		} else {
			w.bob = n
		}
	}
	if separate {
		w.server.Close()
		w.rendezvous = w.child("rendezvous", "-")
		w.registered()
	}
	return w
}

// child starts a process on the host of that name.
func (w *relayedWorld) child(name, dir string) *kernel.Cmd {
	w.t.Helper()
	cmd := w.network.Host(name).(*kernel.Host).Command(w.t.Context(), "/proc/self/exe", "-test.run=^TestRelayChild$")
	cmd.Env = append(os.Environ(), relayChild+"="+name+" "+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
		w.t.Fatalf("%s: %q, %v", name, line, err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	return cmd
}

// over waits until alice and bob have a session of that kind.
func (w *relayedWorld) over(kind string) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if kindOf(w.alice, w.bob.PeerID()).Kind == kind && (kind != KindPeerRelay || len(w.alice.Status().Relay.With) > 0) {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("no %s: %+v", kind, w.alice.Status())
		}
	}
}

// On real sockets and processes: two members that reach each other through
// nobody but a third talk on after the rendezvous has been killed.
func TestPeerRelayInTheKernel(t *testing.T) {
	w := newRelayedWorld(t, netsim.Link{Delay: 2 * time.Millisecond, Rate: 50e6}, false, false)
	w.legs()
	x, c := sendFile(t, w.alice, w.bob, 16<<20)
	defer c.Close()
	x.await(2 << 20)
	if err := w.network.SetUplink("rendezvous", netsim.Link{Cut: true}); err != nil {
		t.Fatal(err)
	}
	t.Logf("longest pause %v, then %s", x.finish(), kindOf(w.alice, w.bob.PeerID()).Kind)
	w.over(KindPeerRelay)
}

// legs waits until both members are registered with the relay.
func (w *relayedWorld) legs() {
	w.t.Helper()
	for _, n := range []*Node{w.alice, w.bob} {
		for end := time.Now().Add(time.Minute); len(n.Status().Relay.With) == 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				w.t.Fatalf("no relay: %+v", n.Status())
			}
		}
	}
}

// registered waits until both members know the rendezvous again, which was
// restarted.
func (w *relayedWorld) registered() {
	w.t.Helper()
	for _, n := range []*Node{w.alice, w.bob} {
		for end := time.Now().Add(time.Minute); !n.Status().Rendezvous.Registered; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				w.t.Fatalf("not registered: %+v", n.Status().Rendezvous)
			}
		}
	}
}

// TestRelayedFigures prints the figures of docs/decisions/0026 if it is asked
// to: INSTANTGRID_FIGURES=1.
func TestRelayedFigures(t *testing.T) {
	if os.Getenv("INSTANTGRID_FIGURES") == "" {
		t.Skip("INSTANTGRID_FIGURES is not set")
	}
	for _, link := range []struct {
		name string
		link netsim.Link
		size int64
	}{{"fast", netsim.Link{}, 256 << 20}, {"20 Mbit/s, 5 ms", netsim.Link{Delay: 5 * time.Millisecond, Rate: 20e6}, 16 << 20}} {
		for _, kind := range []string{KindDirect, KindRelay, KindPeerRelay} {
			t.Run(link.name+"/"+kind, func(t *testing.T) {
				w := newRelayedWorld(t, link.link, kind == KindDirect, true)
				relayer := w.rendezvous
				if kind == KindPeerRelay {
					relayer = w.relay
					w.legs()
					w.rendezvous.Process.Kill()
					time.Sleep(10 * time.Second) // both have noticed
				}
				measureRelayed(t, w, kind, relayer, size(link.size))
			})
		}
	}
}

func size(n int64) int64 {
	if raceEnabled {
		return n / 8
	}
	return n
}

func measureRelayed(t *testing.T, w *relayedWorld, kind string, relayer *kernel.Cmd, size int64) {
	ln, err := w.bob.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- 0
			return
		}
		n, _ := io.Copy(io.Discard, c)
		done <- n
	}()
	c := dial(t, w.alice, w.bob.PeerID(), 7000)
	w.over(kind)
	best := time.Hour
	for range 50 {
		rtt, _, err := w.alice.peerByID(w.bob.PeerID()).Ping(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, rtt)
	}
	before := cpuOf(relayer.Process.Pid)
	block := make([]byte, 256<<10)
	rand.Read(block)
	start := time.Now()
	for sent := int64(0); sent < size; sent += int64(len(block)) {
		if _, err := c.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	c.(interface{ CloseWrite() error }).CloseWrite()
	got := <-done
	took := time.Since(start)
	cpu := cpuOf(relayer.Process.Pid) - before
	path := kindOf(w.alice, w.bob.PeerID())
	stats := ""
	for _, p := range w.alice.peerByID(w.bob.PeerID()).best().session.Paths() {
		stats += fmt.Sprintf(" [%s sent %d lost %d spurious %d mtu %d rtt %v min %v burst %.1f cwnd %d]", p.Link[:min(len(p.Link), 12)], p.PacketsSent, p.PacketsLost, p.PacketsSpurious, p.MTU, p.RTT, p.MinRTT, float64(p.PacketsSent)/float64(max(p.Bursts, 1)), p.CongestionWindow)
	}
	t.Logf("%-10s %7.1f Mbit/s, best ping %v, relay %.2f cpu-s/GB;%s drops %d", path.Kind, float64(got)*8/took.Seconds()/1e6, best, cpu.Seconds()/float64(got)*1e9, stats, w.alice.Transport().DatagramQueueDropped)
	c.Close()
}

// cpuOf returns the processor time of a process so far.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	var user, system int64
	f := strings.Fields(rest)
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &system)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}

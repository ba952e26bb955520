package kernel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// pair is a server on the core and a host behind a NAT, with the host's and
// the NAT's links.
func pair(host, nat netsim.Link) netsim.Scenario {
	return netsim.Scenario{
		NATs:  []netsim.NATNode{{Name: "home", NAT: portRestricted, Uplink: nat}},
		Hosts: []netsim.HostNode{{Name: "server"}, {Name: "a", Parent: "home", Uplink: host}},
	}
}

// roundTrip returns the shortest of three round trips from a to an echoing s.
func roundTrip(a, s end) time.Duration {
	shortest := time.Hour
	for range 3 {
		begin := time.Now()
		s.send(a.mapped(s), "echo")
		a.receive()
		shortest = min(shortest, time.Since(begin))
	}
	return shortest
}

func TestLinkDelay(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name      string
		host, nat netsim.Link
		want      time.Duration // at least
	}{
		{"uplink of the NAT", netsim.Link{}, netsim.Link{Delay: 10 * ms}, 20 * ms},
		{"both", netsim.Link{Delay: 5 * ms}, netsim.Link{Delay: 10 * ms}, 30 * ms},
		{"down only", netsim.Link{}, netsim.Link{Down: &netsim.Link{Delay: 15 * ms}}, 15 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t, pair(tt.host, tt.nat))
			a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
			if got := roundTrip(a, s); got < tt.want {
				t.Errorf("round trip %v, want at least %v", got, tt.want)
			}
		})
	}
}

func TestLinkRate(t *testing.T) {
	// 20 packets of 1028 bytes at 1 Mbit/s: 19 intervals of 8.2 ms.
	n := start(t, pair(netsim.Link{}, netsim.Link{Rate: 1_000_000, Queue: 1 << 20}))
	a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
	begin := time.Now()
	for range 20 {
		a.send(s.addr(), strings.Repeat("x", 1000))
	}
	for range 20 {
		s.receive()
	}
	if took, want := time.Since(begin), 20*1028*8*time.Microsecond; took < want {
		t.Errorf("20 packets took %v, want at least %v", took, want)
	}
}

func TestLinkQueueOverflow(t *testing.T) {
	n := start(t, pair(netsim.Link{}, netsim.Link{Rate: 1_000_000, Queue: 5000}))
	a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
	for range 100 {
		a.send(s.addr(), strings.Repeat("x", 1000))
	}
	s.receive()
	up, _, err := n.Counters("home")
	if err != nil {
		t.Fatal(err)
	}
	if up.Overflow == 0 {
		t.Errorf("counted %+v, want an overflow", up)
	}
}

func TestLinkLoss(t *testing.T) {
	n := start(t, pair(netsim.Link{}, netsim.Link{Loss: 0.5}))
	a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
	const sent = 400
	for range sent {
		a.send(s.addr(), "x")
	}
	var up Counters
	for deadline := time.Now().Add(10 * time.Second); up.Passed+up.Lost < sent && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
		up, _, _ = n.Counters("home")
	}
	if up.Passed+up.Lost != sent || up.Lost < sent/4 || up.Lost > sent*3/4 {
		t.Errorf("of %d packets counted %+v, want about half lost", sent, up)
	}
}

func TestLinkMTU(t *testing.T) {
	n := start(t, pair(netsim.Link{}, netsim.Link{MTU: 1280}))
	a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
	const headers = 28
	a.send(s.addr(), strings.Repeat("x", 1281-headers))
	s.silent()
	a.send(s.addr(), strings.Repeat("x", 1280-headers))
	if text, _ := s.receive(); len(text) != 1280-headers {
		t.Errorf("received %d bytes, want %d", len(text), 1280-headers)
	}
	if up, _, _ := n.Counters("home"); up.TooBig != 1 {
		t.Errorf("counted %+v, want one packet too big", up)
	}
}

func TestSetUplink(t *testing.T) {
	for _, node := range []string{"home", "a", "server"} {
		t.Run(node, func(t *testing.T) {
			t.Parallel()
			n := start(t, pair(netsim.Link{}, netsim.Link{}))
			a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
			before := a.mapped(s)
			set := func(l netsim.Link) {
				t.Helper()
				if err := n.SetUplink(node, l); err != nil {
					t.Fatal(err)
				}
			}
			set(netsim.Link{Cut: true})
			a.send(s.addr(), "lost")
			s.silent()
			set(netsim.Link{Delay: 10 * time.Millisecond})
			if got, want := roundTrip(a, s), 20*time.Millisecond; got < want {
				t.Errorf("round trip %v, want at least %v", got, want)
			}
			set(netsim.Link{})
			if after := a.mapped(s); after != before {
				t.Errorf("mapped to %v, before to %v", after, before)
			}
		})
	}
}

func TestSetUplinkRefuses(t *testing.T) {
	n := start(t, pair(netsim.Link{}, netsim.Link{}))
	for _, tt := range []struct {
		name, node string
		link       netsim.Link
	}{
		{"unknown node", "nobody", netsim.Link{}},
		{"negative delay", "home", netsim.Link{Delay: -1}},
		{"MTU above the buffers", "home", netsim.Link{MTU: 60_000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := n.SetUplink(tt.node, tt.link); err == nil {
				t.Error("succeeded, want an error")
			}
		})
	}
}

func TestLargeMTU(t *testing.T) {
	sc := netsim.Scenario{Hosts: []netsim.HostNode{
		{Name: "a", Uplink: netsim.Link{MTU: 9000}},
		{Name: "b", Uplink: netsim.Link{MTU: 9000}},
	}}
	n := start(t, sc)
	a, b := listen(t, n, "a", 5000), listen(t, n, "b", 5000)
	a.send(b.addr(), strings.Repeat("x", 8000))
	buf := make([]byte, 9000)
	b.SetReadDeadline(time.Now().Add(10 * time.Second))
	size, _, err := b.ReadFromUDPAddrPort(buf)
	if err != nil || size != 8000 {
		t.Errorf("received %d bytes, %v, want 8000", size, err)
	}
	if up, _, _ := n.Counters("a"); up.Passed != 1 {
		t.Errorf("passed as %d packets, want 1", up.Passed)
	}
}

func TestNoRoute(t *testing.T) {
	n := start(t, pair(netsim.Link{}, netsim.Link{}))
	a, s := listen(t, n, "a", 5000), listen(t, n, "server", 3478)
	a.send(netip.MustParseAddrPort("5.255.255.255:9"), "nowhere")
	a.mapped(s) // goes on
	if noRoute, _ := n.CoreDrops(); noRoute != 1 {
		t.Errorf("%d packets had no route, want 1", noRoute)
	}
}

// The way between two homes fails, while both still reach the server.
func TestBlock(t *testing.T) {
	n := start(t, twoHomes(portRestricted, portRestricted))
	if err := n.Block("home-a", "home-b"); err != nil {
		t.Fatal(err)
	}
	if punch(t, n, someRounds) {
		t.Error("reached each other over a blocked way")
	}
	if _, blocked := n.CoreDrops(); blocked != 2*someRounds {
		t.Errorf("%d packets were blocked, want %d", blocked, 2*someRounds)
	}
	if err := n.Unblock("home-b", "home-a"); err != nil {
		t.Fatal(err)
	}
	if !punch(t, n, untilPunched) {
		t.Error("did not reach each other afterwards")
	}
	if err := n.Block("home-a", "a"); err == nil {
		t.Error("blocked a node that is not on the core, want an error")
	}
}

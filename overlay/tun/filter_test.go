package tun

import (
	"testing"
	"time"
)

// epoch is when the tests of the filter begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A filterRig is a flowTable with a policy and a clock.
type filterRig struct {
	t     *testing.T
	table flowTable
	now   time.Time
	open  map[uint16]bool
	asked []uint16
}

func newFilterRig(t *testing.T, open ...uint16) *filterRig {
	r := &filterRig{t: t, now: epoch, open: make(map[uint16]bool)}
	for _, port := range open {
		r.open[port] = true
	}
	return r
}

func (r *filterRig) out(b []byte) {
	r.t.Helper()
	p, err := parsePacket(b)
	if err != nil {
		r.t.Fatalf("%x: %v", b, err)
	}
	r.table.outbound(r.now, &p)
}

func (r *filterRig) in(what string, b []byte, want verdict) {
	r.t.Helper()
	p, err := parsePacket(b)
	if err != nil {
		r.t.Fatalf("%s: %x: %v", what, b, err)
	}
	got := r.table.inbound(r.now, &p, b, func(port uint16) bool {
		r.asked = append(r.asked, port)
		return r.open[port]
	})
	if got != want {
		r.t.Errorf("%s: verdict %d, want %d", what, got, want)
	}
}

func fromThem(proto uint8, payload []byte, more ...func([]byte)) []byte {
	return ip4(proto, their4, our4, payload, more...)
}

func fromUs(proto uint8, payload []byte) []byte { return ip4(proto, our4, their4, payload) }

func TestEverythingIsClosedAtFirst(t *testing.T) {
	r := newFilterRig(t)
	r.in("SYN", fromThem(protoTCP, tcp(1000, 22, tcpSYN)), closedByPolicy)
	r.in("SYN and ACK", fromThem(protoTCP, tcp(1000, 22, tcpSYN|tcpACK)), closedByPolicy)
	r.in("UDP", fromThem(protoUDP, udp(1000, 53)), closedByPolicy)
	r.in("echo request", fromThem(protoICMP, icmp(8, 0, 1)), closedByPolicy)
	r.in("echo reply", fromThem(protoICMP, icmp(0, 0, 1)), unrelated)
	r.in("redirect", fromThem(protoICMP, icmp(5, 1, 1)), unrelated)
	r.in("router advertisement", ip6(protoICMP6, their6, our6, icmp(134, 0, 1)), unrelated)
	r.in("GRE", fromThem(47, []byte{0, 0, 0, 0}), closedByPolicy)
	r.in("port 0", fromThem(protoUDP, udp(1000, 0)), closedByPolicy)
	if n, _ := r.table.count(); n != 0 {
		t.Errorf("%d flows of packets that did not pass", n)
	}
	if len(r.asked) != 4 || r.asked[0] != 22 || r.asked[2] != 53 || r.asked[3] != 0 {
		t.Errorf("asked for the ports %d", r.asked)
	}
}

func TestRulesOpenPorts(t *testing.T) {
	r := newFilterRig(t, 0, 22)
	r.in("SYN", fromThem(protoTCP, tcp(1000, 22, tcpSYN)), pass)
	r.in("UDP to the same port", fromThem(protoUDP, udp(1000, 22)), pass)
	r.in("another port", fromThem(protoTCP, tcp(1000, 23, tcpSYN)), closedByPolicy)
	r.in("echo request", fromThem(protoICMP, icmp(8, 0, 1)), pass)
	// A rule that goes closes nothing that is open.
	r.open = nil
	r.in("data", fromThem(protoTCP, tcp(1000, 22, tcpACK)), pass)
	r.in("a new connection", fromThem(protoTCP, tcp(1001, 22, tcpSYN)), closedByPolicy)
	r.in("the next echo request", fromThem(protoICMP, icmp(8, 0, 1)), pass)
	r.in("port 0 is not ping", fromThem(protoTCP, tcp(1000, 0, tcpSYN)), closedByPolicy)
}

func TestAnswersPass(t *testing.T) {
	r := newFilterRig(t)
	r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN)))
	r.in("SYN and ACK", fromThem(protoTCP, tcp(80, 4000, tcpSYN|tcpACK)), pass)
	r.in("of another port", fromThem(protoTCP, tcp(81, 4000, tcpSYN|tcpACK)), closedByPolicy)
	r.in("over IPv6", ip6(protoTCP, their6, our6, tcp(80, 4000, tcpACK)), closedByPolicy)
	r.in("a connection to the same ports", fromThem(protoTCP, tcp(80, 4000, tcpSYN)), closedByPolicy)
	r.out(fromUs(protoUDP, udp(4000, 53)))
	r.in("UDP", fromThem(protoUDP, udp(53, 4000)), pass)
	r.out(fromUs(protoICMP, icmp(8, 0, 9)))
	r.in("echo reply", fromThem(protoICMP, icmp(0, 0, 9)), pass)
	r.in("reply of another identifier", fromThem(protoICMP, icmp(0, 0, 10)), unrelated)
	r.in("request of our identifier", fromThem(protoICMP, icmp(8, 0, 9)), closedByPolicy)
	r.out(fromUs(47, []byte{0, 0, 0, 0}))
	r.in("GRE", fromThem(47, []byte{0, 0, 0, 0}), pass)
	// Answers of ours to what was refused open nothing.
	r.out(fromUs(protoTCP, tcp(25, 1000, tcpRST)))
	r.in("after our reset", fromThem(protoTCP, tcp(1000, 25, tcpACK)), closedByPolicy)
}

func TestBothOpenAtOnce(t *testing.T) {
	r := newFilterRig(t)
	r.out(fromUs(protoTCP, tcp(4000, 4001, tcpSYN)))
	r.in("their SYN", fromThem(protoTCP, tcp(4001, 4000, tcpSYN)), pass)
}

func TestICMPErrorsAboutFlows(t *testing.T) {
	r := newFilterRig(t)
	sent := fromUs(protoUDP, udp(4000, 53, make([]byte, 100)...))
	about := func(original []byte) []byte { return appendICMPError(nil, tooBig, 1280, their4, our4, original) }
	r.in("before the flow", about(sent), unrelated)
	r.out(sent)
	r.in("about the flow", about(sent), pass)
	r.in("about 8 bytes of it", fromThem(protoICMP, append(icmp(3, 3, 0), sent[:28]...)), pass)
	r.in("about less", fromThem(protoICMP, append(icmp(3, 3, 0), sent[:27]...)), unrelated)
	r.in("about another", about(fromUs(protoUDP, udp(4001, 53))), unrelated)
	r.in("about a packet of theirs", about(fromThem(protoUDP, udp(53, 4000))), unrelated)
	six := ip6(protoTCP, our6, their6, tcp(4000, 80, tcpSYN))
	r.out(six)
	r.in("of IPv6", appendICMPError(nil, hostUnreachable, 0, their6, our6, six), pass)
}

func TestFlowsEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		begin func(r *filterRig)
		life  time.Duration
		next  []byte
	}{
		{"a connection that nobody answers", func(r *filterRig) { r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN))) }, tcpOpening, fromThem(protoTCP, tcp(80, 4000, tcpACK))},
		{"a connection that rests", func(r *filterRig) {
			r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN)))
			r.in("SYN and ACK", fromThem(protoTCP, tcp(80, 4000, tcpSYN|tcpACK)), pass)
		}, tcpEstablished, fromThem(protoTCP, tcp(80, 4000, tcpACK))},
		{"a connection that both have closed", func(r *filterRig) {
			r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN)))
			r.in("FIN", fromThem(protoTCP, tcp(80, 4000, tcpFIN|tcpACK)), pass)
			r.out(fromUs(protoTCP, tcp(4000, 80, tcpFIN|tcpACK)))
		}, tcpClosing, fromThem(protoTCP, tcp(80, 4000, tcpACK))},
		{"a connection that was reset", func(r *filterRig) {
			r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN)))
			r.in("RST", fromThem(protoTCP, tcp(80, 4000, tcpRST|tcpACK)), pass)
		}, tcpClosing, fromThem(protoTCP, tcp(80, 4000, tcpACK))},
		{"UDP", func(r *filterRig) { r.out(fromUs(protoUDP, udp(4000, 53))) }, udpLife, fromThem(protoUDP, udp(53, 4000))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFilterRig(t)
			tt.begin(r)
			r.now = r.now.Add(tt.life - 1)
			r.in("just in time", tt.next, pass)
			r = newFilterRig(t)
			tt.begin(r)
			r.now = r.now.Add(tt.life)
			r.in("too late", tt.next, closedByPolicy)
			if n := r.table.expire(r.now); n != 0 {
				t.Errorf("%d flows left", n)
			}
		})
	}
}

// A connection from the ports of one that is over is a new one.
func TestPortsAreUsedAgain(t *testing.T) {
	r := newFilterRig(t)
	for range 2 {
		r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN)))
		r.in("SYN and ACK", fromThem(protoTCP, tcp(80, 4000, tcpSYN|tcpACK)), pass)
		r.in("FIN", fromThem(protoTCP, tcp(80, 4000, tcpFIN|tcpACK)), pass)
		r.out(fromUs(protoTCP, tcp(4000, 80, tcpFIN|tcpACK)))
	}
	r.out(fromUs(protoTCP, tcp(4000, 80, tcpSYN)))
	r.in("SYN and ACK", fromThem(protoTCP, tcp(80, 4000, tcpSYN|tcpACK)), pass)
	r.now = r.now.Add(tcpClosing)
	r.in("data", fromThem(protoTCP, tcp(80, 4000, tcpACK)), pass)
}

func TestFragments(t *testing.T) {
	r := newFilterRig(t, 53)
	first := fromThem(protoUDP, udp(1000, 53, make([]byte, 8)...), fragment(7, 0, true))
	later := fromThem(protoUDP, make([]byte, 8), fragment(7, 2, false))
	r.in("a later one before the first", later, unknownPart)
	r.in("the first", first, pass)
	r.in("a later one", later, pass)
	r.in("of another packet", fromThem(protoUDP, make([]byte, 8), fragment(8, 2, false)), unknownPart)
	r.in("the first of a closed port", fromThem(protoUDP, udp(1000, 54, make([]byte, 8)...), fragment(9, 0, true)), closedByPolicy)
	r.in("the rest of it", fromThem(protoUDP, make([]byte, 8), fragment(9, 2, false)), unknownPart)
	r.now = r.now.Add(fragmentLife)
	r.in("much later", later, unknownPart)
	for id := range uint16(10 * maxFragmented) {
		r.in("many", fromThem(protoUDP, udp(1000, 53, make([]byte, 8)...), fragment(id, 0, true)), pass)
	}
	if n := len(r.table.fragments); n > maxFragmented {
		t.Errorf("%d packets under way, at most %d", n, maxFragmented)
	}
}

// A peer that opens flow after flow, where it may, costs bounded memory, and its
// newest flows stay.
func TestFlowsAreBounded(t *testing.T) {
	r := newFilterRig(t, 53)
	const many = maxFlows + 1000
	for port := range uint16(many) {
		r.in("one of many", fromThem(protoUDP, udp(port+1, 53)), pass)
	}
	n, evicted := r.table.count()
	if n != maxFlows || evicted != many-maxFlows {
		t.Errorf("%d flows, %d evicted; want %d and %d", n, evicted, maxFlows, many-maxFlows)
	}
	listed := 0
	for f := r.table.oldest; f != nil; f = f.newer {
		listed++
	}
	if listed != n {
		t.Errorf("the list has %d flows, the map %d", listed, n)
	}
	r.open = nil
	r.in("the oldest", fromThem(protoUDP, udp(1, 53)), closedByPolicy)
	r.in("the newest", fromThem(protoUDP, udp(many, 53)), pass)
}

package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

// The two NATs that Linux routers are.
var (
	portRestricted = netsim.NAT{
		Mapping: netsim.EndpointIndependent, Filtering: netsim.AddressAndPortDependent,
		Allocation: netsim.Preserving,
	}
	symmetric = netsim.NAT{
		Mapping: netsim.AddressAndPortDependent, Filtering: netsim.AddressAndPortDependent,
		Allocation: netsim.Random,
	}
)

var checkOnce = sync.OnceValue(Check)

// needRoot skips an ordinary user; root must be able to run the test.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("kernel networks need root")
	}
	if err := checkOnce(); err != nil {
		t.Fatalf("root, yet: %v", err)
	}
}

func start(t testing.TB, sc netsim.Scenario) *Network {
	t.Helper()
	needRoot(t)
	n, err := Start(sc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// twoHomes is a server on the core and a host in each of two homes.
func twoHomes(a, b netsim.NAT) netsim.Scenario {
	return netsim.Scenario{
		Name: "two homes",
		NATs: []netsim.NATNode{{Name: "home-a", NAT: a}, {Name: "home-b", NAT: b}},
		Hosts: []netsim.HostNode{
			{Name: "server"}, {Name: "server-2"},
			{Name: "a", Parent: "home-a"}, {Name: "b", Parent: "home-b"},
		},
	}
}

// An end is a UDP socket of a test.
type end struct {
	t testing.TB
	*net.UDPConn
}

func listen(t testing.TB, n *Network, host string, port uint16) end {
	t.Helper()
	conn, err := n.Host(host).ListenPacket(context.Background(), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return end{t, conn.(*net.UDPConn)}
}

func (e end) addr() netip.AddrPort {
	return e.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (e end) send(to netip.AddrPort, text string) {
	e.t.Helper()
	if _, err := e.WriteToUDPAddrPort([]byte(text), to); err != nil {
		e.t.Fatal(err)
	}
}

// receive returns the next packet. It waits long: only a failure takes that
// time.
func (e end) receive() (string, netip.AddrPort) {
	e.t.Helper()
	text, from, ok := e.within(10 * time.Second)
	if !ok {
		e.t.Fatalf("%v: nothing arrived", e.addr())
	}
	return text, from
}

// silent fails if anything arrives soon.
func (e end) silent() {
	e.t.Helper()
	if text, from, ok := e.within(150 * time.Millisecond); ok {
		e.t.Fatalf("%v: %q arrived from %v, want nothing", e.addr(), text, from)
	}
}

func (e end) within(d time.Duration) (string, netip.AddrPort, bool) {
	e.t.Helper()
	buf := make([]byte, 2048)
	e.SetReadDeadline(time.Now().Add(d))
	n, from, err := e.ReadFromUDPAddrPort(buf)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return "", netip.AddrPort{}, false
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return string(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), true
}

// mapped returns the address that e has toward server.
func (e end) mapped(server end) netip.AddrPort {
	e.t.Helper()
	e.send(server.addr(), "who am I")
	_, from := server.receive()
	return from
}

func TestAddressesOfPlan(t *testing.T) {
	sc := twoHomes(portRestricted, symmetric)
	n := start(t, sc)
	want, err := sc.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range sc.Hosts {
		if got := n.Host(h.Name).Addr(); got != want[h.Name].Addr {
			t.Errorf("%s has %v, want %v", h.Name, got, want[h.Name].Addr)
		}
		if got := listen(t, n, h.Name, 0).addr().Addr(); got != want[h.Name].Addr {
			t.Errorf("socket of %s has %v, want %v", h.Name, got, want[h.Name].Addr)
		}
	}
	if h := n.Host("nobody"); h != nil {
		t.Errorf("Host of an unknown name is %v, want nil", h)
	}
}

func TestMapping(t *testing.T) {
	sc := twoHomes(portRestricted, symmetric)
	n := start(t, sc)
	plan, _ := sc.Addresses()
	s1, s2 := listen(t, n, "server", 3478), listen(t, n, "server-2", 3478)

	a := listen(t, n, "a", 5000)
	want := netip.AddrPortFrom(plan["home-a"].Addr, 5000)
	if got := a.mapped(s1); got != want {
		t.Errorf("port-preserving NAT maps to %v, want %v", got, want)
	}
	if got := a.mapped(s2); got != want {
		t.Errorf("toward another server it maps to %v, want %v", got, want)
	}

	b := listen(t, n, "b", 5000)
	m1, m2 := b.mapped(s1), b.mapped(s2)
	if m1.Addr() != plan["home-b"].Addr || m2.Addr() != plan["home-b"].Addr {
		t.Errorf("mapped to %v and %v, want the address %v", m1, m2, plan["home-b"].Addr)
	}
	if m1.Port() == m2.Port() {
		t.Errorf("one mapping %v toward two servers, want two", m1)
	}
	if again := b.mapped(s1); again != m1 {
		t.Errorf("second packet toward one server maps to %v, want %v", again, m1)
	}

	// And back.
	s1.send(m1, "hello")
	if text, from := b.receive(); text != "hello" || from != s1.addr() {
		t.Errorf("received %q from %v, want hello from %v", text, from, s1.addr())
	}
}

func TestFilteringByAddressAndPort(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	s := listen(t, n, "server", 3478)
	otherPort, otherHost := listen(t, n, "server", 3479), listen(t, n, "server-2", 3478)
	for _, host := range []string{"a", "b"} {
		e := listen(t, n, host, 5000)
		outside := e.mapped(s)
		otherPort.send(outside, "other port")
		otherHost.send(outside, "other host")
		e.silent()
		s.send(outside, "solicited")
		if text, _ := e.receive(); text != "solicited" {
			t.Errorf("%s received %q, want solicited", host, text)
		}
	}
}

// An early packet of the peer must not take the port that the insider's own
// packet to that peer then needs.
func TestUnsolicitedPacketTakesNoPort(t *testing.T) {
	n := start(t, twoHomes(portRestricted, portRestricted))
	s := listen(t, n, "server", 3478)
	a := listen(t, n, "a", 5000)
	outside := a.mapped(s)
	peer := listen(t, n, "server-2", 4000)
	peer.send(outside, "early")
	a.silent()
	if got := a.mapped(peer); got != outside {
		t.Errorf("toward the early peer it maps to %v, want %v", got, outside)
	}
}

func TestHolePunching(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b netsim.NAT
		want bool
	}{
		{"both endpoint-independent", portRestricted, portRestricted, true},
		{"both symmetric", symmetric, symmetric, false},
		{"one symmetric", portRestricted, symmetric, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := start(t, twoHomes(tt.a, tt.b))
			rounds := someRounds
			if tt.want {
				rounds = untilPunched
			}
			if got := punch(t, n, rounds); got != tt.want {
				t.Errorf("punched = %v, want %v", got, tt.want)
			}
		})
	}
}

const (
	someRounds   = 3  // where it should not succeed
	untilPunched = 50 // where it should, on a busy machine, too
)

// punch reports whether host a and host b reach each other in both directions,
// each sending to where the server saw the other.
func punch(t *testing.T, n *Network, rounds int) bool {
	s := listen(t, n, "server", 3478)
	a, b := listen(t, n, "a", 5000), listen(t, n, "b", 5001)
	defer s.Close()
	defer a.Close()
	defer b.Close()
	toA, toB := a.mapped(s), b.mapped(s)
	gotA, gotB := false, false
	for round := 0; round < rounds && !(gotA && gotB); round++ {
		a.send(toB, "from a")
		b.send(toA, "from b")
		for _, e := range []struct {
			end  end
			peer *netip.AddrPort
			got  *bool
		}{{a, &toB, &gotA}, {b, &toA, &gotB}} {
			if _, from, ok := e.end.within(150 * time.Millisecond); ok {
				*e.got, *e.peer = true, from
			}
		}
	}
	return gotA && gotB
}

func TestRebootForgetsMappings(t *testing.T) {
	n := start(t, twoHomes(portRestricted, symmetric))
	s := listen(t, n, "server", 3478)
	a, b := listen(t, n, "a", 5000), listen(t, n, "b", 5000)
	outA, outB := a.mapped(s), b.mapped(s)
	for _, nat := range []string{"home-a", "home-b"} {
		if err := n.Reboot(nat); err != nil {
			t.Fatal(err)
		}
	}
	s.send(outA, "late")
	s.send(outB, "late")
	a.silent()
	b.silent()
	if got := a.mapped(s); got != outA {
		t.Errorf("after the reboot the preserving NAT maps to %v, want %v", got, outA)
	}
	if got := b.mapped(s); got == outB {
		t.Errorf("after the reboot the random NAT maps to %v again", got)
	}
	for _, name := range []string{"a", "nobody"} {
		if err := n.Reboot(name); err == nil {
			t.Errorf("Reboot(%q) succeeded, want an error", name)
		}
	}
}

func TestLifetime(t *testing.T) {
	t.Parallel()
	nat := portRestricted
	nat.Lifetime = time.Second
	n := start(t, twoHomes(nat, nat))
	s := listen(t, n, "server", 3478)
	a := listen(t, n, "a", 5000)
	outside := a.mapped(s)
	time.Sleep(2500 * time.Millisecond)
	s.send(outside, "late")
	a.silent()
}

func TestNestedNAT(t *testing.T) {
	sc := netsim.Scenario{
		NATs: []netsim.NATNode{
			{Name: "home", Parent: "carrier", NAT: portRestricted, Uplink: netsim.Link{Delay: time.Millisecond}},
			{Name: "carrier", NAT: symmetric, Inside: netip.MustParsePrefix("100.64.0.0/16")},
		},
		Hosts: []netsim.HostNode{{Name: "server"}, {Name: "a", Parent: "home"}, {Name: "a2", Parent: "home"}},
	}
	n := start(t, sc)
	plan, _ := sc.Addresses()
	s := listen(t, n, "server", 3478)
	a := listen(t, n, "a", 5000)
	outside := a.mapped(s)
	if outside.Addr() != plan["carrier"].Addr {
		t.Errorf("mapped to %v, want the carrier's %v", outside, plan["carrier"].Addr)
	}
	s.send(outside, "down")
	a.receive()

	// Neighbors reach each other without translation.
	a2 := listen(t, n, "a2", 5000)
	if got := a.mapped(a2); got != a.addr() {
		t.Errorf("neighbor sees %v, want %v", got, a.addr())
	}
}

// Two homes with one private network, as real ones have.
func TestEqualPrivateNetworks(t *testing.T) {
	sc := twoHomes(portRestricted, portRestricted)
	for i := range sc.NATs {
		sc.NATs[i].Inside = netip.MustParsePrefix("192.168.178.0/24")
	}
	n := start(t, sc)
	if a, b := n.Host("a").Addr(), n.Host("b").Addr(); a != b {
		t.Errorf("hosts have %v and %v, want the same", a, b)
	}
	if !punch(t, n, untilPunched) {
		t.Error("the hosts did not reach each other")
	}
}

func TestNetworksAtOnce(t *testing.T) {
	needRoot(t)
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			n := start(t, twoHomes(portRestricted, netsim.NAT{}))
			s := listen(t, n, "server", 3478)
			for _, host := range []string{"a", "b"} {
				e := listen(t, n, host, 5000)
				s.send(e.mapped(s), "back")
				e.receive()
			}
		})
	}
}

func TestStartRefusesWrongScenario(t *testing.T) {
	if _, err := Start(netsim.Scenario{Hosts: []netsim.HostNode{{Name: "a", Parent: "nowhere"}}}); err == nil {
		t.Error("started a scenario without the parent it names")
	}
}

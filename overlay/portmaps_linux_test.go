package overlay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim/kernel"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
)

// routerRules are those of a router that maps by destination and lets in what
// miniupnpd maps, as Debian's nft_init.sh lays them out.
const routerRules = `table inet filter {
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname "in0" accept
		jump miniupnpd
	}
	chain miniupnpd { }
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		jump prerouting_miniupnpd
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		jump postrouting_miniupnpd
		oifname "wan0" masquerade fully-random
	}
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
}
`

const routerConfig = `ext_ifname=wan0
listening_ip=in0
http_port=5000
system_uptime=no
enable_upnp=yes
enable_natpmp=yes
uuid=18fcd5f0-120f-4202-a936-b233fc0f99fb
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 0.0.0.0/0 1024-65535
`

// A node behind a real router that maps by destination has a port mapped and
// proved by the rendezvous, and gives it back when it ends. With NoPortMapping it
// asks for none.
func TestPortMappingInTheKernel(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, program := range []string{"miniupnpd", "nft", "ip", "sysctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v; scripts/setup installs it", err)
		}
	}
	if err := kernel.Check(); err != nil {
		t.Skip(err)
	}
	lan, err := kernel.StartLAN(3)
	if err != nil {
		t.Fatal(err)
	}
	defer lan.Close()
	router, inside, outside := lan.Host(0), lan.Host(1), lan.Host(2)
	run := func(h *kernel.Host, name string, args ...string) {
		t.Helper()
		if out, err := h.Command(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	holder := outside.Command(t.Context(), "sleep", "60")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	run(router, "ip", "link", "add", "wan0", "type", "veth", "peer", "name", "far0", "netns", strconv.Itoa(holder.Process.Pid))
	holder.Process.Kill()
	holder.Wait()
	run(router, "ip", "addr", "add", "5.1.1.1/24", "dev", "wan0")
	run(router, "ip", "link", "set", "wan0", "up")
	run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	run(outside, "ip", "link", "set", "in0", "down")
	run(outside, "ip", "addr", "add", "5.1.1.2/24", "dev", "far0")
	run(outside, "ip", "link", "set", "far0", "up")
	run(inside, "ip", "route", "replace", "default", "via", router.Addr().String())
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run(router, "nft", "-f", write("rules", routerRules))
	daemon := router.Command(t.Context(), "miniupnpd", "-d", "-f", write("miniupnpd.conf", routerConfig), "-P", filepath.Join(dir, "pid"))
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer daemon.Wait()
	defer daemon.Process.Kill()

	far := func(port int) net.PacketConn {
		var pc *net.UDPConn
		if err := outside.Do(func() (err error) {
			pc, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(5, 1, 1, 2), Port: port})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return pc
	}
	s, err := server.New(server.Config{Identity: identity(t, serverIdentity), Listen: []net.PacketConn{far(3478)}, Alternate: []net.PacketConn{far(3479)}, Witness: []net.PacketConn{far(0)}, Mode: server.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := rendezvous.Address{Host: "5.1.1.2", Port: 3478, Peer: identity(t, serverIdentity).PeerID()}

	startInside := func(off bool) *Node {
		open := func() (net.PacketConn, error) { return inside.ListenPacket(context.Background(), 0) }
		pc, err := open()
		if err != nil {
			t.Fatal(err)
		}
		n, err := Start(t.Context(), Config{
			Identity: identity(t, 1), Rendezvous: at.String(), NoPortMapping: off,
			Links: []LinkConfig{{
				Name: "eth0", Conn: pc, Listen: open,
				Gateway: func() (gateway, from netip.Addr) { return router.Addr(), inside.Addr() },
				DialGateway: func(ctx context.Context, _, address string) (net.Conn, error) {
					to, err := netip.ParseAddrPort(address)
					if err != nil {
						return nil, err
					}
					return inside.Dial(ctx, to)
				},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := n.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		n.links.gather(ctx, 0, gatherTime)
		return n
	}
	n := startInside(false)
	var link LinkStatus
	for range 400 {
		if link = n.Status().Links[0]; link.Mapping != nil && link.Mapping.Outside.IsValid() {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	m := link.Mapping
	if m == nil || m.Protocol != "pcp" || m.Outside.Addr() != netip.MustParseAddr("5.1.1.1") || m.Problem != "" {
		t.Fatalf("link %+v, mapping %+v, counters %+v", link, m, n.Status().Counters)
	}
	if m.Outside == link.Outside {
		t.Errorf("the router maps %v, which is the reflexive address: nothing was proved", m.Outside)
	}
	if got := n.links.punchLinks()[0].Candidates[1].Addr; got != m.Outside {
		t.Errorf("the second candidate is %v, want %v", got, m.Outside)
	}
	if c := n.Status().Counters; c.PortMapsMade != 1 || c.PortMapsRefused != 0 {
		t.Errorf("counters %+v", c)
	}

	redirected := func() bool {
		t.Helper()
		out, err := router.Command(t.Context(), "nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(out), "dnat")
	}
	if !redirected() {
		t.Error("the router redirects nothing")
	}
	n.Close()
	if redirected() || n.links.portMapsNow().Unremoved != 0 {
		t.Error("the router redirects after the node's end")
	}

	off := startInside(true)
	time.Sleep(500 * time.Millisecond)
	if m := off.Status().Links[0].Mapping; m != nil {
		t.Errorf("switched off, the mapping is %+v", m)
	}
}

package portmap

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/netsim/kernel"
)

// A miniupnpd is the real server on a router of namespaces: a host behind it and
// one outside.
type miniupnpd struct {
	t                       *testing.T
	inside, router, outside *kernel.Host
	config                  string
	process                 *kernel.Cmd
}

const wanAddr, strangerAddr = "5.1.1.1", "5.1.1.2"

// startMiniupnpd makes the namespaces: host 0 of a LAN is the router, host 1 is
// inside, and a LAN host of its own is outside, moved to the router's far side.
func startMiniupnpd(t *testing.T, options string) *miniupnpd {
	t.Helper()
	path := os.Getenv("PATH") + ":/usr/sbin:/sbin"
	t.Setenv("PATH", path)
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
	t.Cleanup(func() { lan.Close() })
	m := &miniupnpd{t: t, router: lan.Host(0), inside: lan.Host(1), outside: lan.Host(2)}

	// The outside host holds a process while a link to it is made.
	holder := m.outside.Command(t.Context(), "sleep", "60")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	m.run(m.router, "ip", "link", "add", "wan0", "type", "veth", "peer", "name", "far0", "netns", strconv.Itoa(holder.Process.Pid))
	m.run(m.router, "ip", "addr", "add", wanAddr+"/24", "dev", "wan0")
	m.run(m.router, "ip", "link", "set", "wan0", "up")
	m.run(m.router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	m.run(m.outside, "ip", "link", "set", "in0", "down")
	m.run(m.outside, "ip", "addr", "add", strangerAddr+"/24", "dev", "far0")
	m.run(m.outside, "ip", "link", "set", "far0", "up")
	m.run(m.inside, "ip", "route", "replace", "default", "via", m.router.Addr().String())
	_ = holder.Process.Kill()
	_ = holder.Wait()

	// As Debian's nft_init.sh does, and the masquerade of a router that maps by
	// destination.
	rules := filepath.Join(t.TempDir(), "rules")
	write(t, rules, `table inet filter {
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
		oifname "wan0" masquerade random
	}
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
}
`)
	m.run(m.router, "nft", "-f", rules)

	m.config = filepath.Join(t.TempDir(), "miniupnpd.conf")
	write(t, m.config, fmt.Sprintf(`ext_ifname=wan0
listening_ip=in0
http_port=5000
system_uptime=no
uuid=18fcd5f0-120f-4202-a936-b233fc0f99fa
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 0.0.0.0/0 1024-65535
%s`, options))
	m.start()
	return m
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *miniupnpd) run(h *kernel.Host, name string, args ...string) {
	m.t.Helper()
	if out, err := h.Command(m.t.Context(), name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// start runs the server; -d keeps it in the foreground.
func (m *miniupnpd) start() {
	m.t.Helper()
	m.process = m.router.Command(m.t.Context(), "miniupnpd", "-d", "-f", m.config, "-P", filepath.Join(m.t.TempDir(), "pid"))
	log, err := os.Create(filepath.Join(m.t.TempDir(), "log"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.process.Stdout, m.process.Stderr = log, log
	if err := m.process.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && m.t.Failed() {
			m.t.Logf("miniupnpd:\n%s", text)
		}
	})
}

func (m *miniupnpd) stop() {
	_ = m.process.Process.Kill()
	_ = m.process.Wait()
}

// config is a client's for a socket of the inside host.
func (m *miniupnpd) client(pc net.PacketConn, p Protocol) *Client {
	m.t.Helper()
	c, err := Start(Config{
		Route:  func() (netip.Addr, netip.AddrPort) { return m.router.Addr(), addrPortOf(pc.LocalAddr()) },
		Listen: func(netip.Addr) (net.PacketConn, error) { return m.inside.ListenPacket(context.Background(), 0) },
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			return m.inside.Dial(ctx, to)
		},
		Announcements: func(local netip.Addr) (pc net.PacketConn, err error) {
			err = m.inside.Do(func() (err error) { pc, err = ListenAnnouncements(local); return err })
			return pc, err
		},
		Only: []Protocol{p},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// reaches reports whether a packet of a stranger to the address arrives at pc.
func (m *miniupnpd) reaches(to netip.AddrPort, pc net.PacketConn) bool {
	m.t.Helper()
	var stranger *net.UDPConn
	err := m.outside.Do(func() (err error) {
		stranger, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(strangerAddr)})
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	defer stranger.Close()
	buf := make([]byte, 100)
	for range 5 {
		stranger.WriteToUDPAddrPort([]byte("hello"), to)
		pc.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, from, err := pc.ReadFrom(buf); err == nil && addrPortOf(from).Addr() == netip.MustParseAddr(strangerAddr) {
			return true
		}
	}
	return false
}

func await(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for range 300 {
		if ready() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(what + " did not come")
}

// Miniupnpd maps a port by each protocol, a stranger's packet comes in, and after
// Close no more.
func TestMiniupnpd(t *testing.T) {
	m := startMiniupnpd(t, "enable_upnp=yes\nenable_natpmp=yes\n")
	for _, p := range protocols {
		t.Run(string(p), func(t *testing.T) {
			pc, err := m.inside.ListenPacket(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			c := m.client(pc, p)
			for range 300 {
				if st := c.Status(); st.Outside.IsValid() {
					break
				}
				if st := c.Status(); st.Err != nil {
					c.Refresh() // the server may be starting
				}
				time.Sleep(50 * time.Millisecond)
			}
			st := c.Status()
			if st.Protocol != p || st.Outside.Addr() != netip.MustParseAddr(wanAddr) || st.Expires.IsZero() {
				t.Fatalf("status %+v, counters %+v", st, c.Counters())
			}
			if !m.reaches(st.Outside, pc) {
				t.Errorf("nothing comes in at %v", st.Outside)
			}
			c.Close()
			if n := c.Counters(); n.Unremoved != 0 {
				t.Errorf("counters %+v", n)
			}
			if m.reaches(st.Outside, pc) {
				t.Errorf("packets come in at %v after its end", st.Outside)
			}
		})
	}
	t.Run("restart", func(t *testing.T) {
		pc, err := m.inside.ListenPacket(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		c := m.client(pc, PCP)
		await(t, "the mapping", func() bool { return c.Outside().IsValid() })
		m.stop()
		m.run(m.router, "nft", "flush", "chain", "inet", "filter", "prerouting_miniupnpd")
		m.run(m.router, "nft", "flush", "chain", "inet", "filter", "miniupnpd")
		time.Sleep(3 * time.Second) // clocks of servers count seconds
		m.start()
		await(t, "the restart", func() bool { return c.Counters().Restarts > 0 && c.Outside().IsValid() })
		if !m.reaches(c.Outside(), pc) {
			t.Errorf("nothing comes in at %v after the restart", c.Outside())
		}
		if c.Counters().Announcing == 0 {
			t.Error("the restart was not announced")
		}
	})
}

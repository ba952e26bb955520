package overlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n/links"
)

// maxUplinks bounds the links that a node opens by itself, and those of a peer
// that it tries.
const maxUplinks = 4

// uplinkRetry is the pause before a socket that could not be opened is tried
// again: an address may be there before it can be used.
const uplinkRetry = 5 * time.Second

// An Uplink is one local network attachment that a node may open a socket on.
type Uplink struct {
	// Name tells the attachment from others, and appears in status.
	Name string
	// Addr is its local address. An uplink with another address is another
	// one: its socket is closed and a new one opened.
	Addr netip.Prefix
	// Open opens the UDP socket, which the node owns from then on.
	Open func(ctx context.Context) (net.PacketConn, error)
}

// Uplinks reports the attachments that can be used: at once, maybe none, and
// then after each change, until ctx ends. It returns ctx's error, or why it
// cannot say; what it has reported then stays. Reports do not overlap.
type Uplinks func(ctx context.Context, report func([]Uplink)) error

// tunnels are the names, up to a digit or a dash, of interfaces that lead into
// another interface: packets that leave there leave this computer elsewhere.
var tunnels = []string{"tun", "tap", "utun", "wg", "tailscale", "zt", "nebula", "ipsec", "gre", "gretap", "sit", "ip6tnl", "vti", "vxlan", "geneve", "grid", "nordlynx", "proton", "mullvad"}

// isTunnel reports whether an interface is a tunnel or leads to containers, by
// its name and by what Linux says that it is.
func isTunnel(name string) bool {
	return links.Internal(name) || tunnelNamed(name) || tunnelKind("/sys/class/net", name)
}

// tunnelKind reports whether the kernel says below dir that an interface is a
// tunnel, whatever its name is: one of TUN or TAP, of WireGuard, or of IP in IP. An
// interface without hardware addresses alone may be a modem. Elsewhere than on Linux
// it knows nothing.
func tunnelKind(dir, name string) bool {
	if _, err := os.Stat(filepath.Join(dir, name, "tun_flags")); err == nil {
		return true
	}
	// A file that is not there says nothing, and is empty here.
	about, _ := os.ReadFile(filepath.Join(dir, name, "uevent"))
	if slices.Contains(strings.Split(string(about), "\n"), "DEVTYPE=wireguard") {
		return true
	}
	kind, _ := os.ReadFile(filepath.Join(dir, name, "type"))
	switch strings.TrimSpace(string(kind)) {
	case "768", "769", "776", "778", "823": // ARPHRD_TUNNEL, _TUNNEL6, _SIT, _IPGRE, _IP6GRE
		return true
	}
	return false
}

func tunnelNamed(name string) bool {
	return slices.ContainsFunc(tunnels, func(t string) bool {
		rest, found := strings.CutPrefix(name, t)
		return found && (rest == "" || rest[0] == '-' || rest[0] >= '0' && rest[0] <= '9' || t == "zt")
	})
}

// chooseUplinks returns one uplink for each interface: its first IPv4 address.
func chooseUplinks(addrs []links.Address, port uint16) (list []Uplink) {
	for _, a := range addrs {
		if !a.Addr().Is4() || slices.ContainsFunc(list, func(u Uplink) bool { return u.Name == a.Interface }) {
			continue
		}
		list = append(list, Uplink{Name: a.Interface, Addr: a.Prefix, Open: func(ctx context.Context) (net.PacketConn, error) {
			return links.Listen(ctx, a, port)
		}})
	}
	return list
}

// systemUplinks watches this computer's interfaces.
func systemUplinks(port uint16) Uplinks {
	return func(ctx context.Context, report func([]Uplink)) error {
		return links.Watch(ctx, links.Config{Skip: isTunnel}, func(c links.Change) {
			report(chooseUplinks(c.All, port))
		})
	}
}

// severalUplinks reports whether this computer has more than one way to the
// rendezvous, and no tunnel that all packets are meant to go through.
func severalUplinks(home rendezvous.Address) bool {
	addrs, err := links.Usable(links.Config{Skip: isTunnel})
	if err != nil {
		return false
	}
	list := chooseUplinks(addrs, 0)
	if len(list) < 2 {
		return false
	}
	// Where the rendezvous runs on this computer, a socket of one interface
	// does not reach it.
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 9)
	if addr, err := netip.ParseAddr(home.Host); err == nil && addr.Unmap().Is4() {
		to = netip.AddrPortFrom(addr.Unmap(), 9)
	} else if home.Host == "localhost" {
		return false
	}
	// Connecting a UDP socket sends nothing; it asks the routing table.
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false
	}
	defer c.Close()
	from := addrPortOf(c.LocalAddr()).Addr()
	return from != to.Addr() && slices.ContainsFunc(addrs, func(a links.Address) bool { return a.Addr() == from })
}

// An opened is the link of an uplink.
type opened struct {
	Uplink
	link *nodeLink
}

func (o *opened) is(u Uplink) bool { return o.Name == u.Name && o.Addr == u.Addr }

// An uplinkKeeper opens and closes links as uplinks come and go.
type uplinkKeeper struct {
	links *nodeLinks
	open  []*opened
}

// update makes the links those of list, at most maxUplinks. It reports whether
// anything has changed, and the last error of opening a socket.
func (k *uplinkKeeper) update(ctx context.Context, list []Uplink) (changed bool, err error) {
	var gone []*opened
	k.open = slices.DeleteFunc(k.open, func(o *opened) bool {
		stays := slices.ContainsFunc(list, o.is)
		if !stays {
			gone = append(gone, o)
			k.links.remove(o.link)
		}
		return !stays
	})
	for _, u := range list {
		if len(k.open) >= maxUplinks || slices.ContainsFunc(k.open, func(o *opened) bool { return o.is(u) }) {
			continue
		}
		pc, failed := u.Open(ctx)
		if failed != nil {
			err = &LinkError{Name: "link " + u.Name, Err: failed}
			continue
		}
		link, failed := k.links.add(LinkConfig{Name: u.Name, Conn: pc, OwnPrefixes: []netip.Prefix{u.Addr.Masked()}})
		if failed != nil {
			pc.Close()
			err = failed
			continue
		}
		k.open = append(k.open, &opened{u, link})
		changed = true
	}
	// Last, so that sessions have somewhere to go.
	for _, o := range gone {
		o.link.close()
		changed = true
	}
	return changed, err
}

// startUplinks opens the links of what the source reports first, and follows
// it from then on. It fails if none can be opened though there are some.
func (n *Node) startUplinks(ctx context.Context, source Uplinks) error {
	reports := make(chan []Uplink, 1)
	n.running.Go(func() {
		err := source(n.ctx, func(list []Uplink) {
			list = slices.Clone(list)
			for {
				select {
				case reports <- list:
					return
				case <-n.ctx.Done():
					return
				default:
				}
				select {
				case <-reports: // older
				default:
				}
			}
		})
		if n.ctx.Err() == nil {
			n.log.Warn("network attachments are no longer watched", "err", err)
		}
		close(reports)
	})
	k := &uplinkKeeper{links: n.links}
	var list []Uplink
	select {
	case list = <-reports:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := k.update(n.ctx, list)
	if err != nil && len(k.open) == 0 {
		return err
	}
	n.running.Go(func() { n.followUplinks(k, list, err != nil, reports) })
	return nil
}

// followUplinks has links come and go until the node ends.
func (n *Node) followUplinks(k *uplinkKeeper, list []Uplink, retry bool, reports <-chan []Uplink) {
	for {
		var again <-chan time.Time
		if retry {
			again = time.After(uplinkRetry)
		}
		select {
		case next, more := <-reports:
			if !more {
				return
			}
			list = next
		case <-again:
		case <-n.ctx.Done():
			return
		}
		changed, err := k.update(n.ctx, list)
		if retry = err != nil; retry && !errors.Is(err, ErrClosed) {
			n.log.Info("a network attachment cannot be used now", "err", err)
		}
		if changed {
			n.linksChanged()
		}
	}
}

// linksChanged has everybody look for paths on the links that there are now.
func (n *Node) linksChanged() {
	ids := n.links.ids()
	n.log.Info("links", "count", len(ids))
	n.lan.announce()
	n.mu.Lock()
	clients := make([]*rendezvous.Client, 0, len(n.clients))
	for _, c := range n.clients {
		clients = append(clients, c)
	}
	n.mu.Unlock()
	for _, c := range clients {
		n.spawn(c.LinksChanged)
	}
	n.eachPeer(func(p *Peer) {
		for _, a := range p.all() {
			a.tellLinks()
			a.paths.linksChanged()
		}
	})
}

// tellLinks tells the client of the session which links we have. One link alone
// needs no telling, as long as there were no others.
func (a *association) tellLinks() {
	if a.client || !a.isProven() {
		return
	}
	ids := a.node.links.ids()
	if len(ids) != 1 {
		a.toldLinks.Store(true)
	}
	if a.toldLinks.Load() {
		a.send(linkList{ids})
	}
}

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// A LAN is hosts on one Ethernet: a bridge, without a router or anything outside.
// Multicast and broadcast reach every host. Each has a device "in0".
type LAN struct {
	hosts  []*Host
	bridge *namespace

	mu     sync.Mutex // guards closed
	closed bool
}

// maxLANHosts keeps the last byte of an address a host's own.
const maxLANHosts = 250

// lanPrefix is the network of a LAN.
var lanPrefix = netip.MustParsePrefix("10.98.0.0/24")

// lanDevice is the name of a host's device.
var lanDevice = insideName(0)

// StartLAN makes a LAN of hosts. The caller ends it with Close. The error wraps
// ErrNotPermitted where the system refuses.
func StartLAN(hosts int) (*LAN, error) {
	if hosts < 1 || hosts > maxLANHosts {
		return nil, fmt.Errorf("kernel: a LAN has 1 to %d hosts, not %d", maxLANHosts, hosts)
	}
	bridge, err := newNamespace()
	if err != nil {
		return nil, err
	}
	l := &LAN{bridge: bridge}
	err = bridge.do(func() error {
		b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		b.Name = "bridge"
		// Without a router nobody asks who listens, and snooping would drop.
		snooping := false
		b.MulticastSnooping = &snooping
		if err := netlink.LinkAdd(b); err != nil {
			return notPermitted("making a bridge", err)
		}
		return netlink.LinkSetUp(b)
	})
	for i := 0; i < hosts && err == nil; i++ {
		err = l.add(i)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// add makes host i.
func (l *LAN) add(i int) error {
	ns, err := newNamespace()
	if err != nil {
		return err
	}
	addr := lanPrefix.Addr().As4()
	addr[3] = byte(i + 1)
	h := &Host{node: &node{name: fmt.Sprintf("host%d", i), ns: ns, address: netip.AddrFrom4(addr)}}
	l.hosts = append(l.hosts, h)
	port := fmt.Sprintf("port%d", i)
	err = l.bridge.do(func() error {
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name = port
		veth.PeerName = lanDevice
		veth.PeerNamespace = netlink.NsFd(ns.fd)
		if err := netlink.LinkAdd(veth); err != nil {
			return notPermitted("making a veth pair", err)
		}
		b, err := netlink.LinkByName("bridge")
		if err != nil {
			return fmt.Errorf("kernel: find the bridge: %w", err)
		}
		if err := netlink.LinkSetMaster(veth, b); err != nil {
			return fmt.Errorf("kernel: put %s into the bridge: %w", port, err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	if err := h.Do(func() error { return l.connect(h.node.address) }); err != nil {
		return err
	}
	return l.bridge.do(func() error { return waitUp(port) })
}

// connect gives the device of the calling thread's namespace its address.
func (l *LAN) connect(addr netip.Addr) error {
	link, err := netlink.LinkByName(lanDevice)
	if err != nil {
		return fmt.Errorf("kernel: find device %s: %w", lanDevice, err)
	}
	ip := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(lanPrefix.Bits(), 32)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("kernel: add address %v to %s: %w", addr, lanDevice, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("kernel: set %s up: %w", lanDevice, err)
	}
	// As with a router, though there is none: programs that ask the routing
	// table for a way to the group find one.
	all := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: addr.AsSlice(), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}
	if err := netlink.RouteAdd(all); err != nil {
		return fmt.Errorf("kernel: add route through %s: %w", lanDevice, err)
	}
	return waitUp(lanDevice)
}

// Unplug takes the address off host i's device and sets it down, as when a cable
// is pulled; Plug undoes that.
func (l *LAN) Unplug(i int) error {
	return l.hosts[i].Do(func() error {
		link, err := netlink.LinkByName(lanDevice)
		if err != nil {
			return fmt.Errorf("kernel: find device %s: %w", lanDevice, err)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("kernel: list addresses of %s: %w", lanDevice, err)
		}
		for _, a := range addrs {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("kernel: delete address %v: %w", a, err)
			}
		}
		return netlink.LinkSetDown(link)
	})
}

// Plug connects host i again, after Unplug.
func (l *LAN) Plug(i int) error {
	h := l.hosts[i]
	return h.Do(func() error { return l.connect(h.node.address) })
}

// Host returns host i, from 0.
func (l *LAN) Host(i int) *Host { return l.hosts[i] }

// Close ends the LAN: sockets of its hosts return net.ErrClosed, processes
// started by Host.Command are killed, namespaces vanish. It may be called twice.
func (l *LAN) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	for _, h := range l.hosts {
		h.closeSockets()
		h.node.ns.close()
	}
	l.bridge.close()
	return nil
}

package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of devices inside namespaces. Every node sees its parent through
// uplinkName; a NAT sees its n-th child through insideName(n).
const uplinkName = "up0"

func insideName(n int) string { return fmt.Sprintf("in%d", n) }

// tunQueue is how many packets wait for this process to read them: enough for
// it to be off the processor for tens of milliseconds at 1 Gbit/s.
const tunQueue = 8192

// openTUN makes a TUN device in the calling thread's namespace. Its packets
// are read from and written to the file, one for each call.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, notPermitted("opening /dev/net/tun", err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("kernel: name of TUN device %q: %w", name, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, notPermitted("making a TUN device", err)
	}
	return os.NewFile(uintptr(fd), "tun:"+name), nil
}

// A device is one end of a link, inside the namespace of the calling thread.
type device struct {
	name  string
	local netip.Addr // of this end
	peer  netip.Addr // reached through it; the zero value: all others
	via   netip.Addr // gateway toward all others on an Ethernet link; the zero value: none needed
}

// configure gives the device its address, routes and MTU and sets it up.
func (d device) configure(mtu int) error {
	link, err := netlink.LinkByName(d.name)
	if err != nil {
		return fmt.Errorf("kernel: find device %s: %w", d.name, err)
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("kernel: set MTU %d of %s: %w", mtu, d.name, err)
	}
	if err := netlink.LinkSetTxQLen(link, tunQueue); err != nil {
		return fmt.Errorf("kernel: set queue length of %s: %w", d.name, err)
	}
	addr := &netlink.Addr{IPNet: hostNet(d.local)}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("kernel: add address %v to %s: %w", d.local, d.name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("kernel: set %s up: %w", d.name, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Src: d.local.AsSlice()}
	switch {
	case d.peer.IsValid():
		route.Dst = hostNet(d.peer)
		route.Scope = netlink.SCOPE_LINK
	case d.via.IsValid():
		route.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		route.Gw = d.via.AsSlice()
		route.SetFlag(netlink.FLAG_ONLINK)
	default:
		route.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		route.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("kernel: add route through %s: %w", d.name, err)
	}
	return nil
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

// addVeth joins the calling thread's namespace, by device name, with the
// namespace of descriptor peer, by uplinkName.
func addVeth(name string, peer int) error {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name = name
	veth.PeerName = uplinkName
	veth.PeerNamespace = netlink.NsFd(peer)
	if err := netlink.LinkAdd(veth); err != nil {
		return notPermitted("making a veth pair", err)
	}
	return nil
}

// waitUp waits until a veth device carries packets: the kernel learns
// asynchronously that the other end is up, and drops what is sent before.
func waitUp(name string) error {
	const step, steps = time.Millisecond, 5000
	for range steps {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("kernel: find device %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(step)
	}
	return fmt.Errorf("kernel: device %s has no carrier after %v", name, steps*step)
}

func deleteDevice(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("kernel: find device %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("kernel: delete device %s: %w", name, err)
	}
	return nil
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("kernel: find loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("kernel: set loopback device up: %w", err)
	}
	return nil
}

package links

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// An Address is one local address on one interface.
type Address struct {
	Interface string // its name
	Prefix    netip.Prefix
}

// Addr returns the address without the length of its prefix.
func (a Address) Addr() netip.Addr { return a.Prefix.Addr() }

func (a Address) String() string { return a.Interface + " " + a.Prefix.String() }

// internal are the names, up to a digit or a dash, of interfaces that software
// makes for containers and virtual machines: conventions of Docker, Podman,
// LXC, LXD, libvirt, Kubernetes networks, VMware and VirtualBox.
var internal = []string{"docker", "br-", "veth", "podman", "cni", "flannel", "cali", "cilium", "lxc", "lxdbr", "virbr", "vnet", "vmnet", "vboxnet", "kube-", "dummy"}

// Internal reports whether an interface leads to containers or virtual
// machines of this computer rather than to a network, by its name.
func Internal(name string) bool {
	return slices.ContainsFunc(internal, func(p string) bool { return strings.HasPrefix(name, p) })
}

// An attachment is what the system says of one interface.
type attachment struct {
	name  string
	flags net.Flags
	addrs []netip.Prefix
}

// usable returns the addresses to be reported, sorted.
func (c *Config) usable(list []attachment) []Address {
	var out []Address
	for _, a := range list {
		if a.flags&net.FlagLoopback != 0 || a.flags&net.FlagUp == 0 || a.flags&net.FlagRunning == 0 || c.Skip(a.name) {
			continue
		}
		for _, p := range a.addrs {
			addr := p.Addr().Unmap()
			own := slices.ContainsFunc(c.Own, func(o netip.Prefix) bool { return o.Contains(addr) })
			if addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() || own || len(out) == maxAddresses {
				continue
			}
			out = append(out, Address{a.name, netip.PrefixFrom(addr, p.Bits())})
		}
	}
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}

// maxAddresses bounds what is reported of one computer.
const maxAddresses = 256

func compare(a, b Address) int {
	if c := strings.Compare(a.Interface, b.Interface); c != 0 {
		return c
	}
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Prefix.Bits() - b.Prefix.Bits()
}

// attachments asks the system.
func attachments() ([]attachment, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []attachment
	for _, i := range interfaces {
		a := attachment{name: i.Name, flags: i.Flags}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		for _, addr := range addrs {
			if n, ok := addr.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					ones, _ := n.Mask.Size()
					a.addrs = append(a.addrs, netip.PrefixFrom(ip.Unmap(), ones))
				}
			}
		}
		list = append(list, a)
	}
	return list, nil
}

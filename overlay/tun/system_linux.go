package tun

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// aliasPrefix begins the alias (ip link) of our interfaces; the rest tells them
// apart.
const aliasPrefix = "instantgrid "

// Open makes the network interface that a describes, with its addresses and
// routes. Each change goes through changes, nil: they are not written down.
// The interface, and all that belongs to it, vanishes with the process. What
// stands in the way is an [*OverlapError], what this computer refuses a
// [*DeviceError].
func Open(a Addressing, changes Changes) (d Device, undo func() error, err error) {
	if changes == nil {
		kinds := make(map[string]Kind)
		for _, k := range Kinds() {
			kinds[k.Name] = k
		}
		changes = unwritten{kinds}
	}
	if err := checkOverlap(a); err != nil {
		return nil, nil, err
	}
	s := setUp{changes: changes, alias: aliasPrefix + rand.Text(), name: a.Name}
	defer func() {
		if err != nil {
			s.undo()
		}
	}()
	if err := s.device(a.MTU); err != nil {
		return nil, nil, err
	}
	for _, x := range []struct {
		address netip.Addr
		prefix  netip.Prefix
	}{{a.Address, a.Prefix}, {a.Address6, a.Prefix6}} {
		if !x.address.IsValid() {
			continue
		}
		if err := s.address(x.address); err != nil {
			return nil, nil, err
		}
		if err := s.route(x.prefix, x.address); err != nil {
			return nil, nil, err
		}
	}
	return s.made, s.undo, nil
}

// A setUp is the making of one interface, step by step.
type setUp struct {
	changes Changes
	alias   string
	name    string
	made    Device
	link    netlink.Link
	undos   []func() error
}

// step makes one change.
func (s *setUp) step(what, kind string, data any, make func() error) error {
	undo, err := s.changes.Make(kind, data, make)
	if err != nil {
		return &DeviceError{Name: s.name, Step: what, Err: err}
	}
	s.undos = append(s.undos, undo)
	return nil
}

// undo takes everything back, the newest first.
func (s *setUp) undo() error {
	var failed []error
	for len(s.undos) > 0 {
		last := len(s.undos) - 1
		failed = append(failed, s.undos[last]())
		s.undos = s.undos[:last]
	}
	if s.made != nil {
		failed = append(failed, s.made.Close())
		s.made = nil
	}
	return errors.Join(failed...)
}

func (s *setUp) device(mtu int) error {
	return s.step("making it", kindDevice, deviceChange{s.name, s.alias}, func() error {
		if _, err := netlink.LinkByName(s.name); err == nil {
			return fmt.Errorf("%w: another program has an interface of this name", fs.ErrExist)
		}
		d, err := openKernelDevice(s.name, mtu)
		if err != nil {
			return err
		}
		s.made = d
		if s.link, err = netlink.LinkByName(s.name); err != nil {
			return err
		}
		if err := netlink.LinkSetAlias(s.link, s.alias); err != nil {
			return err
		}
		// Only the addresses that we give it; a system may have switched IPv6
		// off for new interfaces.
		for file, value := range map[string]string{"disable_ipv6": "0", "addr_gen_mode": "1", "accept_ra": "0"} {
			path := "/proc/sys/net/ipv6/conf/" + s.name + "/" + file
			if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return netlink.LinkSetUp(s.link)
	})
}

func (s *setUp) address(a netip.Addr) error {
	own := netip.PrefixFrom(a, a.BitLen())
	return s.step("giving it the address "+a.String(), kindAddress, addressChange{s.name, s.alias, own.String()}, func() error {
		x := &netlink.Addr{IPNet: ipNet(own)}
		if a.Is6() {
			x.Flags = unix.IFA_F_NODAD // nobody else can have it
		}
		return netlink.AddrAdd(s.link, x)
	})
}

func (s *setUp) route(p netip.Prefix, from netip.Addr) error {
	return s.step("adding the route "+p.String(), kindRoute, addressChange{s.name, s.alias, p.String()}, func() error {
		return netlink.RouteAdd(&netlink.Route{
			LinkIndex: s.link.Attrs().Index, Dst: ipNet(p), Src: from.AsSlice(), Scope: scopeOf(p),
		})
	})
}

func scopeOf(p netip.Prefix) netlink.Scope {
	if p.Addr().Is4() {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Kinds returns the kinds of changes that Open makes, for undoing those of a
// process that has died. What belongs to an interface that has vanished with
// its process is gone, and an interface of the same name that somebody else has
// made since is left alone.
func Kinds() []Kind {
	return []Kind{
		{kindDevice, func(data json.RawMessage) error {
			var c deviceChange
			if err := json.Unmarshal(data, &c); err != nil {
				return err
			}
			link := ourLink(c.Name, c.Alias)
			if link == nil {
				return nil
			}
			return unlessGone(netlink.LinkDel(link))
		}},
		{kindAddress, func(data json.RawMessage) error {
			link, p, err := findLink(data)
			if err != nil || link == nil {
				return err
			}
			return unlessGone(netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)}))
		}},
		{kindRoute, func(data json.RawMessage) error {
			link, p, err := findLink(data)
			if err != nil || link == nil {
				return err
			}
			return unlessGone(netlink.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Scope: scopeOf(p)}))
		}},
	}
}

func findLink(data json.RawMessage) (netlink.Link, netip.Prefix, error) {
	var c addressChange
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, netip.Prefix{}, err
	}
	p, err := netip.ParsePrefix(c.Prefix)
	if err != nil {
		return nil, netip.Prefix{}, err
	}
	return ourLink(c.Name, c.Alias), p, nil
}

// ourLink returns the interface of that name if it is ours.
func ourLink(name, alias string) netlink.Link {
	link, err := netlink.LinkByName(name)
	if err != nil || link.Attrs().Alias != alias {
		return nil
	}
	return link
}

// unlessGone makes nothing of an error that says that there is nothing to undo.
func unlessGone(err error) error {
	for _, gone := range []syscall.Errno{syscall.ESRCH, syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.ENOENT} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// checkOverlap refuses networks that an interface or a route of this computer
// has. Default routes have everything, also those that come as two halves.
func checkOverlap(a Addressing) error {
	var ours []netip.Prefix
	if a.Address.IsValid() {
		ours = append(ours, a.Prefix)
	}
	if a.Address6.IsValid() {
		ours = append(ours, a.Prefix6)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return &DeviceError{Name: a.Name, Step: "listing interfaces", Err: err}
	}
	names := make(map[int]string)
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	find := func(n *net.IPNet, index int, route bool) error {
		p, ok := prefixOf(n)
		if !ok {
			return nil
		}
		for _, own := range ours {
			if own.Overlaps(p) && p.Bits() > 1 {
				return &OverlapError{Prefix: own, Other: p, Device: names[index], Route: route}
			}
		}
		return nil
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return &DeviceError{Name: a.Name, Step: "listing addresses", Err: err}
	}
	for _, x := range addresses {
		if err := find(x.IPNet, x.LinkIndex, false); err != nil {
			return err
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return &DeviceError{Name: a.Name, Step: "listing routes", Err: err}
	}
	for _, r := range routes {
		if err := find(r.Dst, r.LinkIndex, true); err != nil {
			return err
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	if a.Is4In6() && size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

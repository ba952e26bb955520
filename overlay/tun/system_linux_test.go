package tun

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/netsim/kernel"
)

func namespace(t *testing.T) *kernel.Host {
	t.Helper()
	pair, err := kernel.StartPair(1, netsim.Link{})
	if errors.Is(err, kernel.ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pair.Close() })
	return pair.Host(0)
}

func addressing(prefix string) Addressing {
	p := netip.MustParsePrefix(prefix)
	return Addressing{
		Name: "grid0", MTU: 1280, Prefix: p, Address: p.Addr().Next(),
		Prefix6: netip.MustParsePrefix("fd00:1:2::/48"), Address6: netip.MustParseAddr("fd00:1:2::7"),
	}
}

// The pair's device has 10.99.0.1 and a route to its peer.
func TestOverlapsAreRefused(t *testing.T) {
	h := namespace(t)
	for _, tt := range []struct {
		prefix string
		route  string // added before; empty: none
		want   string // empty: none
	}{
		{"10.99.0.0/16", "", "interface " + kernel.PairDevice(0)},
		{"10.99.0.0/30", "", "interface " + kernel.PairDevice(0)},
		{"10.98.0.0/16", "", ""},
		{"10.98.0.0/16", "10.98.7.0/24", "route 10.98.7.0/24 through interface lo"},
		{"10.98.0.0/16", "10.96.0.0/12", "route 10.96.0.0/12 through interface lo"},
		{"10.98.0.0/16", "0.0.0.0/1", ""},
		{"10.98.0.0/16", "fd00:1::/32", "route fd00:1::/32 through interface lo"},
	} {
		err := h.Do(func() error {
			if tt.route != "" {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				p := netip.MustParsePrefix(tt.route)
				r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(p), Scope: scopeOf(p)}
				if err := netlink.RouteAdd(r); err != nil {
					return err
				}
				defer netlink.RouteDel(r)
			}
			return checkOverlap(addressing(tt.prefix))
		})
		var overlap *OverlapError
		switch {
		case tt.want == "" && err != nil, tt.want != "" && !errors.As(err, &overlap):
			t.Errorf("%s beside %q: %v", tt.prefix, tt.route, err)
		case tt.want != "" && (!strings.Contains(err.Error(), tt.want) || !strings.Contains(overlap.Object(), overlap.Prefix.String()) || overlap.Next() == ""):
			t.Errorf("%s beside %q: %v, want %q", tt.prefix, tt.route, err, tt.want)
		}
	}
}

// What another program has is refused and left alone, and nothing is left of an
// attempt that fails half way.
func TestOpenAndUndo(t *testing.T) {
	h := namespace(t)
	err := h.Do(func() error {
		d, undo, err := Open(addressing("10.98.0.0/16"), nil)
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName("grid0")
		if err != nil || link.Attrs().MTU != 1280 || d.MTU() != 1280 || d.Name() != "grid0" {
			t.Errorf("made %+v, %v", link, err)
		}
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil || len(addresses) != 2 {
			t.Errorf("addresses %v, %v", addresses, err)
		}
		again := addressing("10.97.0.0/16")
		again.Address6 = netip.Addr{}
		var device *DeviceError
		if _, _, err := Open(again, nil); !errors.As(err, &device) || !strings.Contains(device.Next(), "--tun-name") {
			t.Errorf("a second one of that name: %v", err)
		}
		if _, err := netlink.LinkByName("grid0"); err != nil {
			t.Errorf("the first one is gone: %v", err)
		}
		if err := undo(); err != nil {
			t.Errorf("undo: %v", err)
		}
		if _, err := netlink.LinkByName("grid0"); err == nil {
			t.Error("the interface is still there")
		}
		// The kernel refuses this address.
		bad := addressing("10.98.0.0/16")
		bad.Address = netip.MustParseAddr("255.255.255.255")
		if _, _, err := Open(bad, nil); !errors.As(err, &device) || device.Object() == "" || device.Cause() == "" {
			t.Errorf("a bad address: %v", err)
		}
		if _, err := netlink.LinkByName("grid0"); err == nil {
			t.Error("the interface of a failed attempt is still there")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

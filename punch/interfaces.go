package punch

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
)

// InterfacePrefixes returns the prefixes of this computer's interfaces that
// are up, without loopback and link-local ones. It asks the system each time.
func InterfacePrefixes() []netip.Prefix {
	list := interfaceAddrs()
	for i, p := range list {
		list[i] = p.Masked()
	}
	return list
}

// HostAddrs returns the host candidates of a socket that is bound to port on
// all addresses: those of this computer's interfaces that are up, without
// loopback and link-local ones.
func HostAddrs(port uint16) []netip.AddrPort {
	var list []netip.AddrPort
	for _, p := range interfaceAddrs() {
		list = append(list, netip.AddrPortFrom(p.Addr(), port))
	}
	return list
}

// interfaceAddrs returns addresses with the lengths of their prefixes.
func interfaceAddrs() []netip.Prefix {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var list []netip.Prefix
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				list = append(list, p)
			}
		}
	}
	return list
}

// DefaultGateways returns the IPv4 addresses of this computer's default
// routers, where the system shows them in /proc/net/route (Linux); otherwise
// none.
func DefaultGateways() []netip.Addr {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseRoutes(f)
}

// Router returns the default router in the network of a local address, and that
// address; a wildcard stands for the address in the network of the first default
// router. Both are invalid where there is none, or where [DefaultGateways] cannot
// see it.
func Router(local netip.Addr) (gateway, from netip.Addr) {
	return routerOf(local.Unmap(), DefaultGateways(), interfaceAddrs())
}

func routerOf(local netip.Addr, gateways []netip.Addr, own []netip.Prefix) (gateway, from netip.Addr) {
	for _, g := range gateways {
		for _, p := range own {
			if p.Contains(g) && p.Addr() != g && (local.IsUnspecified() || local == p.Addr()) {
				return g, p.Addr()
			}
		}
	}
	return netip.Addr{}, netip.Addr{}
}

// parseRoutes reads the table of proc_net(5): destination and gateway are
// columns two and three, in hexadecimal and the computer's own byte order.
func parseRoutes(table io.Reader) []netip.Addr {
	var list []netip.Addr
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		columns := strings.Fields(lines.Text())
		if len(columns) < 3 || columns[1] != "00000000" {
			continue
		}
		raw, err := hex.DecodeString(columns[2])
		if err != nil || len(raw) != 4 {
			continue
		}
		var addr [4]byte
		binary.NativeEndian.PutUint32(addr[:], binary.BigEndian.Uint32(raw))
		if a := netip.AddrFrom4(addr); !a.IsUnspecified() {
			list = append(list, a)
		}
	}
	return list
}

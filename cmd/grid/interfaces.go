package main

import (
	"net"
	"net/netip"
)

// interfacePrefixes returns the IPv4 networks that this computer is in.
func interfacePrefixes() (list []netip.Prefix) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			list = append(list, p.Masked())
		}
	}
	return list
}

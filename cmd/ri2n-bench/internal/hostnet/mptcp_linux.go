package hostnet

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AllowSubflows lets the Multipath TCP of this namespace add count subflows to
// a connection, toward addresses that the peer announces.
func AllowSubflows(count int) error {
	err := request(multipathFamily, multipathVersion, multipathSetLimits,
		nl.NewRtAttr(attrRecvAddAddrs, nl.Uint32Attr(uint32(count))),
		nl.NewRtAttr(attrSubflows, nl.Uint32Attr(uint32(count))))
	if err != nil {
		return fmt.Errorf("set the limits of Multipath TCP: %w", err)
	}
	return nil
}

// Announce has the Multipath TCP of this namespace announce a further IPv4
// address to its peers. id is above zero and its own.
func Announce(addr netip.Addr, id uint8) error {
	a := nl.NewRtAttr(attrAddr|unix.NLA_F_NESTED, nil)
	a.AddRtAttr(addrFamily, nl.Uint16Attr(unix.AF_INET))
	a.AddRtAttr(addrID, nl.Uint8Attr(id))
	a.AddRtAttr(addrAddr4, addr.AsSlice())
	a.AddRtAttr(addrFlags, nl.Uint32Attr(addrFlagSignal))
	if err := request(multipathFamily, multipathVersion, multipathAddAddr, a); err != nil {
		return fmt.Errorf("announce %v with Multipath TCP: %w", addr, err)
	}
	return nil
}

package hostnet

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of linux/ethtool_netlink.h.
const (
	ethtoolVersion     = 1
	featuresSet        = 12
	featuresHeader     = 1
	featuresWanted     = 3
	headerDeviceName   = 2
	bitsetBits         = 3
	bitsetBit          = 1
	bitsetBitName      = 2
	ethtoolFamily      = "ethtool"
	multipathFamily    = "mptcp_pm"
	multipathVersion   = 1
	multipathAddAddr   = 1
	multipathSetLimits = 5
	attrAddr           = 1
	attrRecvAddAddrs   = 2
	attrSubflows       = 3
	addrFamily         = 1
	addrID             = 2
	addrAddr4          = 3
	addrFlags          = 6
	addrFlagSignal     = 1
)

// offloads are the features that let packets larger than the MTU pass a
// device: TCP and UDP segmentation, in software or not, and coalescing.
var offloads = []string{
	"tx-generic-segmentation",
	"tx-tcp-segmentation",
	"tx-tcp-ecn-segmentation",
	"tx-tcp-mangleid-segmentation",
	"tx-tcp6-segmentation",
	"tx-udp-segmentation",
	"tx-gso-list",
	"rx-gro",
	"rx-gro-list",
	"rx-udp-gro-forwarding",
}

// DisableOffloads makes a device carry no packet larger than its MTU.
func DisableOffloads(device string) error {
	header := nl.NewRtAttr(featuresHeader|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(headerDeviceName, nl.ZeroTerminated(device))
	wanted := nl.NewRtAttr(featuresWanted|unix.NLA_F_NESTED, nil)
	bits := wanted.AddRtAttr(bitsetBits|unix.NLA_F_NESTED, nil)
	for _, name := range offloads {
		// A bit that is named and has no value flag is cleared.
		bit := bits.AddRtAttr(bitsetBit|unix.NLA_F_NESTED, nil)
		bit.AddRtAttr(bitsetBitName, nl.ZeroTerminated(name))
	}
	if err := request(ethtoolFamily, ethtoolVersion, featuresSet, header, wanted); err != nil {
		return fmt.Errorf("turn offloads of %s off: %w", device, err)
	}
	return nil
}

// request sends one message to a generic netlink family and waits for the
// answer.
func request(family string, version, command uint8, attrs ...*nl.RtAttr) error {
	f, err := netlink.GenlFamilyGet(family)
	if err != nil {
		return fmt.Errorf("this kernel has no %s: %w", family, err)
	}
	req := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: version})
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// Package tun joins a network interface of this computer with the grid, so that
// programs that know nothing of it reach its members by IP address.
//
// An [Interface] reads IP packets from a TUN device, finds the member that has
// the destination address, and sends the packet as a datagram of the session
// with that member, which it makes if need be; and it gives the device what
// members send. Packets go between the two ends of a session only: each must
// have an address of its sender's as its source and one of its receiver's as
// its destination, and nothing is routed for third parties.
//
// A packet filter stands before the device. Answers to what this computer has
// begun come in; whatever a member begins needs a rule of the policy file that
// opens the port, of TCP or UDP, or ping. What is closed is answered by ICMP, so
// that programs fail at once.
//
//	iface, err := tun.Start(tun.Config{Node: node})
//	defer iface.Close()
//
// It takes root, or CAP_NET_ADMIN, and Linux: [Open] makes the device, and gives
// it addresses and routes. Each of these changes is offered to Config.Changes
// before it is made.
//
// The methods of an Interface may be called concurrently.
//
// Not handled: multicast and broadcast, routing for networks behind members,
// names (grid dns), systems other than Linux.
//
// Sources: docs/overlay-protocol.md, section 10; RFC 4193 (addresses), RFC 1122
// and RFC 4443 (ICMP), RFC 1858 and RFC 7126 (fragments and options that are
// refused), RFC 5382 and RFC 4787 (how long flows are remembered).
package tun

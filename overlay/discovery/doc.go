// Package discovery finds the members of a grid on the local network, without
// any server: DNS-SD over multicast DNS.
//
// A node announces the service of its state, `_grid-idle._udp`,
// `_grid-worker._udp` or `_grid-coordinator._udp`, as BonjourGrid does, and
// listens for those of others. When its state changes it withdraws one service
// and announces another. What others announce becomes a bounded table of
// transport addresses.
//
//	f := discovery.Start(discovery.Config{Self: self, Wire: wire})
//	defer f.Close()
//	for _, h := range f.Heard() { ... }
//
// Everything that is heard is a claim of somebody on the same network: a peer ID
// and a state at an address. The address is the one that the announcement came
// from, and counts only on the network that it came over, so that nobody can
// name a third party. Whether the peer is there the handshake of a session
// shows. Names are for people; only a membership proof makes one true.
//
// A [Finder]'s methods may be called concurrently. The protocol is a plain state
// machine, which the Finder owns under a mutex.
//
// Not handled here: IPv6, since the sockets that nodes open by themselves are
// IPv4; services of other kinds; networks that a reflector joins, since their
// addresses are not ours.
//
// RFC 6762 (multicast DNS) and RFC 6763 (DNS-SD) are followed; messages are
// encoded by github.com/miekg/dns. Why no library for the rest:
// docs/decisions/0023-discovery.md.
package discovery

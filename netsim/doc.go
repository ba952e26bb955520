// Package netsim runs networks of homes behind NATs, so that code which has to
// get through them can be tested: in virtual time or in real time, with equal
// seeds giving equal networks.
//
// A [Scenario] describes a tree: the Internet in the middle, which adds no
// delay and loses nothing, NATs and hosts below it, and one [Link] from each
// node to its parent. NATs are spelled in the terms of RFC 4787 and may nest.
// [Start] runs a scenario in process. Its clock is that of package time, so
// that inside a bubble of testing/synctest ten minutes cost microseconds, and
// outside of one a second is a second. [Stepped] runs scripted hosts on a clock
// of its own, and hashes all that happens. Package kernel, below this one, runs
// the same scenarios on real sockets.
//
// Tests begin with [New] and add nodes to the world it returns:
//
//	world := netsim.New(t, 1)
//	home := world.NAT(netsim.NAT{Filtering: netsim.AddressAndPortDependent})
//	a, b := home.Host(), world.Host(netsim.Link{Delay: 10 * time.Millisecond})
//	pc, err := a.ListenPacket(ctx, 5000)
//
// Commands begin with [LoadScenario] and [Start].
//
// All methods of a [Sim], its hosts and their sockets may be called from
// several goroutines. In a bubble the network must be started and closed inside
// the bubble. Goroutines of one moment run in any order, so equal seeds give
// equal networks there, and not equal traces; a [Stepped] gives both.
//
// Not handled: TCP, IPv6, fragments, ICMP but for packets that are too big,
// checksums, routing other than along the tree. A packet that is too large for
// a link is dropped and counted; its sender is told where Link.TooBig says so.
//
// Sources: RFC 4787 (NAT behavior for UDP), RFC 7857 (its update), Gilbert and
// Elliott's two-state model of loss.
package netsim

// Package routing finds members of a grid and keys of its key space without a
// centre: Kademlia over sessions that others provide.
//
// Every member has a [Position], which it cannot choose, in a space of 256-bit
// keys. A [Node] keeps a table of other members, most of them near to itself,
// and answers three questions: who is nearest to a key ([Node.Lookup]), what
// does that member say to a request ([Node.Ask]), and where does a message to
// a key go next ([Node.Route]). Who lies is contained: members carry a proof
// that is verified before they are asked or shown to others, lookups take
// disjoint paths, and a key around which somebody has crowded nodes is
// noticed.
//
// The first calls are [New], with a [Messenger] and a function that verifies
// members, and [Node.Bootstrap].
//
// A Node is a state machine without goroutines, locks or a clock: one
// goroutine owns it, hands it messages and the time, and calls [Node.Advance]
// at [Node.Deadline]. Everything else in this folder works alike: object
// (location objects), swim (failure detection), shortcut (who deserves a
// session of their own) and fifo (exactly once and in order). So ten thousand
// nodes run in one process in virtual time; package sim does that.
//
// It opens no sessions, decides nobody's membership and stores nothing on
// disk.
//
// Sources: Kademlia (Maymounkov, Mazieres 2002); S/Kademlia (Baumgart, Mies
// 2007). The messages are in docs/routing-protocol.md, the reasons in
// docs/decisions/0017-routing.md.
package routing

// Package portmap asks a home router to send the packets that arrive at one of
// its outside ports on to a socket behind it, so that peers reach the socket
// whatever the router's mapping and filtering are.
//
// Three protocols do that, and a router speaks none, one or all of them: PCP,
// its predecessor NAT-PMP, and UPnP-IGD. A [Client] asks for all three at once,
// takes the best that is offered, in that order, and keeps one mapping for one
// socket: it has the outside address verified before it tells it, renews the
// mapping at half its lifetime, makes it again when the router has restarted,
// and removes it in Close.
//
// [Start] is the first call, one for each socket. [Client.Outside] is the
// address to offer, and [Config.Changed] tells when it is another one. [Look]
// only asks what the router offers and makes no mapping.
//
// All exported methods may be called from several goroutines. Everything works
// inside a bubble of testing/synctest, and ends with Close.
//
// The router is not trusted: only its own address is listened to and asked, its
// answers are bounded in size and number, and an outside address that it names
// is worth nothing until [Config.Verify] has proved it. Not handled: IPv6
// pinholes, PCP's PEER, options and authentication, the port control of routers
// that are not the default router.
//
// Sources: RFC 6887 (PCP), RFC 6886 (NAT-PMP), UPnP Device Architecture 1.1,
// WANIPConnection 1 and 2.
package portmap

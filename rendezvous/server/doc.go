// Package server is the rendezvous itself: it answers STUN Bindings, keeps
// agents registered under the peer IDs that they prove, and relays datagrams
// between two registered peers that both want it.
//
// Nothing is spent on strangers: a Binding gets the standard's answer and is
// rate-limited by address and prefix; a session starts only for members, for
// guests whose token was deposited, and, while any deposit is open, for a
// bounded number of strangers who have five seconds to show the key of one.
// Relay targets are peer IDs, never addresses. Everything is soft state, which
// agents rebuild by registering again.
//
// One mutex guards the [Server]'s table of registrations and channels, which
// is a plain state machine: methods that take now run under it, append to the
// outboxes of agents and never block. A session costs two goroutines, one that
// reads its control stream and one that reads its datagrams; a third writes
// while there is something to write.
//
// Membership certificates, names and TURN are not handled here. The protocol
// is docs/rendezvous-protocol.md; STUN is RFC 8489.
package server

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
// Registrations and channels are those of package relay, below it.
//
// Membership certificates, names and TURN are not handled here. The protocol
// is docs/rendezvous-protocol.md; STUN is RFC 8489.
package server

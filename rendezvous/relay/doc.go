// Package relay passes datagrams between two registered agents that both want
// it: what the rendezvous does for the peers that it introduces, and a member
// of a grid for other members.
//
// A [Relay] serves sessions. On each, an agent registers under the peer ID that
// the session has proven, and opens channels to other registered agents; targets
// are peer IDs, never addresses, and until a target has answered eight datagrams
// pass. Who may have a session at all is for whoever calls [Relay.Serve];
// [Relay.Authorize] has the answer for a rendezvous, which also admits the
// guests of deposited tokens and, for five seconds, strangers that have the key
// of one to show.
//
// One mutex guards the table of registrations and channels, which is a plain
// state machine: methods that take now run under it, append to the outboxes of
// agents and never block. A session costs two goroutines, one that reads its
// control stream and one that reads its datagrams; a third writes while there is
// something to write.
//
// The relay queues nothing itself: a target's session serves the senders that
// relay to it by deficit round robin, and drops what is older than 50 ms
// (ri2n.Session.SendDatagram). The protocol is docs/rendezvous-protocol.md,
// sections 1 to 6.
package relay

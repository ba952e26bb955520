// Package overlay makes computers behind NATs reachable by the name of their
// key: a TCP-like socket API over encrypted sessions that run through a relay
// at once and directly as soon as a path has been opened.
//
// A [Node] has one identity, one ri2n endpoint with its links, and a client of
// its rendezvous. [Node.DialContext] opens a stream to a port of a peer and
// [Node.Listen] takes such streams; both fit net/http, gRPC and whatever else
// speaks [net.Conn]. [Node.ListenPacket] is for packets. Packages forward, socks
// and resolver lead programs here that embed nothing. Below, one session for each peer begins on whatever can
// carry a packet now: the relay channel at the rendezvous, and the transport
// addresses that worked before. Over that session both sides exchange punch's
// messages; a transport address that punch finds is proven by the session with
// full-size packets and then used. The relay stays as the backup for the whole
// life of the session. Streams never notice.
//
// [Start] is the first call:
//
//	node, err := overlay.Start(ctx, overlay.Config{Dir: dir, Rendezvous: address})
//	conn, err := node.DialContext(ctx, "tcp", peer.String()+":7000")
//
// A node accepts nobody unless told: the peers of Config.Allow and of the allow
// file in its directory, the one holder of each token made with [Node.Invite],
// and the members of its grid, to whom its policy file opens ports. [PeerOf]
// names the verified peer behind a connection.
//
// A grid is made with [Found] and joined with [Join]; its members are dialed by
// name, "alice.lab.grid:7000" (docs/membership.md). The node keeps its own
// membership fresh, and ends the sessions of those who are revoked.
//
// Whatever is not direct says why: [PathStatus] holds a reason from punch's
// closed list and what would change it. The TLS client of a session decides
// and tells the other side, so that both show the same.
//
// All exported methods may be called from several goroutines. [Node.Close]
// ends everything and returns when all goroutines have ended.
//
// Files in Config.Dir, all of mode 0600: key (the identity), allow (one peer ID
// on a line), rendezvous (HOST:PORT#PEERID), addresses (where peers were
// reached last), invitations (open tokens, one in a file), policy.yaml (which
// ports are open to which members), grid, membership, revocations and members (of
// a member), grid.key (of an admin).
//
// Not handled: discovery on the LAN, port mapping, UDP-less networks. The formats of streams and of the control stream are
// laid down in docs/overlay-protocol.md.
package overlay

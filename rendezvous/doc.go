// Package rendezvous introduces peers to each other: it is the agent's side of
// a rendezvous server, with the texts that name a server ([Address]) and let a
// stranger in ([Token]).
//
// A [Client] keeps one session with the server, made anew whenever it is lost,
// and stays registered under the peer ID of its endpoint. [Client.OpenChannel]
// gives a relay channel to any other registered peer, at once: the first
// datagram leaves together with the request. The channel is a [ri2n.Carrier];
// its owner makes a link of it and dials through it:
//
//	ch, err := client.OpenChannel(peer)
//	link, err := endpoint.AddCarrier("relay", ch)
//	ch.Attach(link.Deliver)
//	session, err := endpoint.Dial(ctx, peer, ri2n.Remote{Link: link})
//
// Channels that others open arrive at Config.OnChannel. The server sees who
// talks to whom, when and how much, and nothing of what is said; a malicious
// one can refuse service, and can do nothing else.
//
// All methods may be called from several goroutines. A channel survives the
// loss of the server: it is opened again, under a new generation, on the next
// session.
//
// Membership, names and certificates are not handled here, and neither is hole
// punching. The protocol is docs/rendezvous-protocol.md; the server is package
// rendezvous/server.
package rendezvous

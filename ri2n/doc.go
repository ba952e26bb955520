// Package ri2n moves reliable, encrypted streams and datagrams between two
// peers over several network links at once (Redundant Interconnection with
// Inexpensive Network, the RI2N of 2003 to 2007).
//
// An [Endpoint] owns the local links: UDP sockets, each bound to one network
// attachment, and relay channels ([Carrier]). A [Session] is the association
// of two peers, each named by its [PeerID] and proven by a TLS 1.3 handshake.
// It runs over one or more paths, a path being a link and a remote transport
// address, or a relay and a peer. Every path has packet numbers, round-trip
// time and congestion control of its own, so that one path's delay never looks
// like another's loss. A [Stream] is a [net.Conn] with CloseWrite; it does not
// notice when the session moves to another path.
//
// What a side sends goes over its paths as its [Policy] says: over all of them
// for bandwidth unless another is chosen, for a session or for a stream.
//
// The first calls are [NewEndpoint], [Endpoint.AddLink] and [Endpoint.Dial] or
// [Endpoint.Accept].
//
// All exported methods may be called concurrently, save that one goroutine at
// a time should read, and one write, a given stream.
//
// ri2n finds no addresses and opens no NATs: whoever knows that a transport
// address reaches the peer offers it with [Session.AddPath], and ri2n proves
// it with full-size encrypted probes before it carries data.
//
// The wire format is docs/wire-format.md. Recovery follows RFC 9002,
// congestion control RFC 9438 and RFC 9406, flow control and streams RFC 9000,
// datagrams RFC 9221, per-path packet numbers draft-ietf-quic-multipath.
package ri2n

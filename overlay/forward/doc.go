// Package forward passes connections and packets on between the sockets of this
// computer and those of the overlay, for programs that embed neither.
//
// [Streams] takes connections from any net.Listener and joins each with one that
// a function dials; [Packets] does that for a net.PacketConn, with a socket for
// each source as a NAT has a mapping. Which side is the overlay's makes no
// difference: a local listener with a dial into the overlay forwards, a listener
// of the overlay with a dial to this computer exposes. [Join] is the copying
// alone, with half-closed connections kept as they are and failures passed on as
// failures.
//
// Each Serve blocks until its context ends or its socket is closed, and returns
// when all its goroutines have ended. Counters may be read at any time.
package forward

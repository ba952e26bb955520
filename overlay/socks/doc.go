// Package socks is a SOCKS5 proxy (RFC 1928) into the overlay: programs that
// know SOCKS reach members by name, with connections (CONNECT) and with packets
// (UDP ASSOCIATE).
//
// A [Server] serves the connections of one listener; give it one on a loopback
// address, since there is no authentication. Names go to the overlay as the
// program wrote them (curl --socks5-hostname), and so do addresses of members;
// everything outside the grid is refused, unless Config.Outside dials it.
//
// A client that is slow to say what it wants is dropped after ten seconds, and
// connections are bounded. A connection that could not be made is answered with
// the reply code for its reason, logged and counted.
//
// Not handled: BIND, authentication, and fragments of packets, which RFC 1928
// makes optional.
package socks

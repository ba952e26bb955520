// Package protocol holds the messages between an agent and its rendezvous and
// the frame that relayed datagrams travel in, as docs/rendezvous-protocol.md
// lays them down.
//
// Everything here is values: nothing reads a clock, keeps a goroutine or
// touches a socket. Parsers check lengths first, allocate nothing in
// proportion to a number that the peer chose, and refuse every encoding that
// the append function beside them would not produce.
package protocol

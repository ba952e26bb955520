// Package resolver is a DNS server for the names of a grid: A, AAAA, TXT and SRV
// records of members below .grid, and PTR records of their addresses. Other
// names it passes to the resolvers that this computer had before, or refuses.
//
// A [Server] answers on any number of sockets, UDP and TCP. It is meant for a
// loopback address. On any other it answers for names of the grid alone and
// limits each network to a few answers a second, so that it is of no use for
// amplification: no answer is larger than the client takes, 1232 bytes over UDP
// at most, and ANY is refused.
//
// Records (ttl 60 s; what does not exist is remembered for 5 s):
//
//	NAME.GRID.grid                A, AAAA, TXT (peer, roles)
//	PEERID.grid                   the same, of a member
//	_SERVICE._tcp.NAME.GRID.grid  SRV: the usual port of a service (_ssh, _http),
//	                              or a number (_7000)
//	_SERVICE._tcp.GRID.grid       SRV: one record for each member, at most 16
//	GRID.grid                     SOA, NS, TXT (grid, members)
//	the addresses' reverse names  PTR
//
// A name that nobody is known by makes the server ask the grid's ledger, at most
// once in five seconds. Names of other grids do not exist.
package resolver

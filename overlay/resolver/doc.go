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
//	_SERVICE._tcp.NAME.GRID.grid  SRV: the ports where the member offers a service
//	                              (_ssh, _http), else its usual port, or a number
//	                              (_7000)
//	_SERVICE._tcp.GRID.grid       SRV: the members that offer it, else one record
//	                              for each member, of 16 members at most
//	GRID.grid                     SOA, NS, TXT (grid, members)
//	the addresses' reverse names  PTR
//
// A name that nobody is known by makes the server ask the grid's ledger, at most
// once in five seconds. A question for a service, from this computer, makes it
// ask the member what it offers ([overlay.Node.Offers]), at most once in 20 s.
// Names of other grids do not exist.
package resolver

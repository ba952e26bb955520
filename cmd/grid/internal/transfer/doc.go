// Package transfer moves one file from one peer to another over a reliable
// connection, and takes up again where an earlier connection, or an earlier
// process, left off.
//
// The sender offers name, size, times and mode. The receiver answers with what
// it has: how many bytes, and their hash. The sender checks that hash against
// its own file, says where it starts, and sends the rest, while the receiver
// acknowledges what it has written. At the end both compare the SHA-256 of the
// whole file; only then does the file get its name, and only then does either
// side report success. The wire format is described at the types in wire.go.
//
// The first calls are [Open] with [Send] on one side and [Receive] on the
// other. Each takes one connection, and is called again with the next one
// after a [LostError]. A receiver keeps NAME.part and NAME.part.journal beside
// NAME meanwhile.
//
// Several transfers may run at once. Two receivers of one name in one directory
// exclude each other with an [ObstacleError].
//
// Directories, sparse files, owners and extended attributes are not handled,
// and neither is finding or authenticating the peer: the connection comes from
// package overlay, which has done that.
package transfer

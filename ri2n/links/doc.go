// Package links watches this computer's network attachments come and go, and
// opens the socket of one of them for ri2n.
//
// [Watch] reports the addresses through which packets may leave: those of
// interfaces that are up and have a carrier, without loopback and link-local
// ones, and without interfaces that lead to containers and virtual machines of
// this computer (see [Internal]). On Linux the kernel tells of changes
// (rtnetlink); elsewhere, and as a second look there, the list is read every
// few seconds.
//
// An address that goes is reported at once: whoever sends from it should stop.
// One that comes is reported when it has stayed for a moment, since interfaces
// that are being set up change several times.
//
// What is reported says nothing of whether the Internet can be reached; ri2n
// proves each path.
package links

// Package object keeps location objects: signed records, each at a key of its
// own, that say on which node a process lives now.
//
// A record belongs to an owner, the key pair of a job, and a rank; both make
// its key, so nobody else can occupy it. Records are kept by the nodes nearest
// to their key ([Config.Replicas] of them, and as many copies as there are
// [Config.Witnesses]), move with the key space when nodes
// come and go, and end when the node that holds the process stops renewing
// their lease.
//
// A record changes by compare-and-swap on its incarnation: of several
// coordinators that revive one process at the same time, one succeeds, and the
// others learn of it. The replicas of a key are the acceptors of a
// CASPaxos register, without a leader and without a log.
//
// [New] makes the [Service] of a node, which is replica and client at once.
// The first calls are [Service.Swap], [Service.Get] and [Service.Hold].
// [Service.Send] delivers messages to a process wherever it is: to the node
// where it was last seen, which passes them on when the process has moved, or
// else by way of its key. Delivery is at most once for each call and in no
// order; package fifo adds both.
//
// A Service is a state machine on top of a [routing.Node] and has the same
// owner.
//
// What it does not promise: while the nearest nodes of a key change faster
// than records are handed on (within about [Config.SweepInterval]), two swaps
// may both succeed. The record with the higher incarnation, then ballot,
// prevails, and the loser's holder is told when it renews.
//
// Sources: P2P-DVM (Ni, Harwood, Stuckey 2006); CASPaxos (Rystsov 2018). The
// messages are in docs/routing-protocol.md, section 7.
package object

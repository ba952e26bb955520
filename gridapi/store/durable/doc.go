// Package durable keeps objects although their holders go.
//
// An object of at least a mebibyte is cut into stripes, each stripe into four
// shards to which Reed and Solomon's code adds two: any four give the stripe
// back. A smaller one is kept in three copies. Shards lie on distinct sites as
// long as there are enough of them. A [Record] says who holds which shard, and
// lies in a [Register] under the object's name.
//
// A [Guard] runs on every holder. The holder that wins the election about an
// object is its warden: it watches the others, has them show random parts of
// what they hold, and makes lost shards anew. When it goes, the next one is the
// warden. A holder that is away for a while is waited for, and what it held is
// still of use when it comes back.
//
// The first calls are [New], [Guard.Protect] and [Guard.Run]; [Guard.Restore]
// gets an object back. All exported methods may be called from several
// goroutines. It does not encrypt: shards are parts of chunks, which are
// sealed.
//
// Sources: Reed and Solomon, "Polynomial codes over certain finite fields",
// 1960; Thaler and Ravishankar, 1998, and Schindelhauer and Schomaker, 2005,
// for the placement.
package durable

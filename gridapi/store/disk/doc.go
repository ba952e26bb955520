// Package disk keeps chunks on a disk: many to a file, so that a million small
// ones need no file each.
//
// Chunks are appended to segments, files of some MiB. The index in memory has
// 20 bytes for a chunk and says in which segment it lies; a snapshot of it, and
// what was appended since, bring it back at the next start (docs/store-format.md,
// section 4). Put returns after an fsync, which concurrent calls share; a crash
// at any moment loses nothing that it has acknowledged. When the quota is
// reached, chunks that nobody has read for longest go, save pinned ones.
//
// The first call is [Open]. All methods may be called concurrently. One program
// at a time may open a directory; it is the caller's to see to that.
//
// Deletions are not made durable one by one: after a crash, chunks that were
// deleted shortly before can be there again. They are what their ID says, so
// that costs room and nothing else.
package disk

// Package frame cuts the byte stream of a connection into frames, and frames
// into fields.
//
// A frame is one byte of kind, four bytes of length, big-endian, and a body of
// that length. A body consists of fields: big-endian integers, texts with a
// length of two bytes, and bytes of a length that is known. Each protocol has
// kinds and limits of its own, and a reader that checks a length before it
// makes room for it.
//
// Reading never panics, whatever the bytes. Nothing here is for concurrent use.
package frame

// Package store shares data among the members of a grid: objects of any size,
// found by the hash of their content or by a name.
//
// An object is cut into chunks where its content says so, so that two versions
// of one share most of them. Each chunk is compressed if that pays, sealed with
// a key that follows from its content and from the grid's secret, and addressed
// by the SHA-256 of what is sealed: equal chunks are kept once, whoever holds
// one can verify it, and only who has the secret can read it. The manifest of
// an object lists its chunks and their keys; it is chunks itself, a tree of them
// if it is long, and the ID of its root is the object's. What fits into one
// chunk lies in the root, so that a small object is one chunk.
//
// [Open] is the first call, then [Store.Put] and [Store.Get]:
//
//	s, err := store.Open(store.Config{Dir: dir, Key: key})
//	object, err := s.PutFile(ctx, "matrix.bin", store.PutOptions{Pin: true})
//	_, err = s.GetFile(ctx, object.ID, "copy.bin", store.GetOptions{})
//
// Put has returned means that the object survives a crash. It stays until room
// is needed, and for as long as it is pinned. What is not here is fetched
// through Config.Fetcher; package swarm is one, and package durable keeps
// objects on several members.
//
// All exported functions and methods may be called from several goroutines. One
// program at a time may open a directory. The formats are in
// docs/store-format.md.
//
// It does not hide the sizes of chunks nor who fetches which, and cannot take
// back what somebody has read.
package store

// Package qlog writes what ri2n sessions do into a file that people and
// programs can read afterwards, and reads such files.
//
// The format is that of draft-ietf-quic-qlog-main-schema: a JSON text sequence
// (RFC 7464), a header first and then one event in each record. Events that
// QUIC has as well bear the names and fields of
// draft-ietf-quic-qlog-quic-events, with a path_id added, since ri2n numbers
// packets on each path; the others are named ri2n: and are listed in
// docs/qlog.md. No record holds a key, a token or a byte of users. Peer IDs and
// addresses are there.
//
//	w, err := qlog.Create("trace.sqlog", qlog.Options{})
//	endpoint, err := ri2n.NewEndpoint(ri2n.Config{Identity: id, Trace: w.Trace})
//	...
//	endpoint.Close()
//	w.Close()
//
// A [Writer] never makes a session wait: events go through a bounded queue, and
// those that find it full are counted, and their number is a record of its own.
// A file that was cut off, by a crash say, is readable up to the last whole
// record. All methods may be called concurrently.
package qlog

// Package membership says who belongs to a grid: the formats of its keys,
// certificates, records and lists, and pure functions that verify them.
//
// A grid is a trust domain with one Ed25519 key, which stays with its admin. A
// member shows a [Proof]: a certificate chain that leads from the grid key over
// an invite key to the member's own key, and a record that the grid's ledger has
// signed. Neither is worth anything without the other. Whoever finds a used
// invitation can make a chain but gets no record, since the ledger counts; a
// ledger in the wrong hands can make records but no chain, since it never sees
// the secret half of an invite key. [Verify] looks at both, at the revocations
// that the admin has signed, and at the clock.
//
//	member, err := membership.Verify(proof, peer, grid, revocations, now)
//
// Keys are named by the SHA-256 of their SubjectPublicKeyInfo, as peers are
// ([ri2n.PeerID]). Nothing here keeps state, reads a clock or opens a file, and
// everything may be called from several goroutines. Parsers take bytes from the
// network: they never panic, and refuse what the append functions would not
// write.
//
// Not handled here: counting and naming, which is the ledger's, and what a
// member may do, which the node that is dialed decides.
//
// Formats: docs/membership.md, section 6. Certificates follow RFC 5280 and
// RFC 8410 (Ed25519).
package membership

// Package ledger keeps the hard state of grids: who is a member under which name
// and address, how often each invitation was used, and what was revoked.
//
// A [Ledger] runs inside a rendezvous and answers its members' questions
// ([Ledger.Answer]). It signs records with the key of its rendezvous, and can do
// no more than that: a record admits nobody without a certificate chain, which
// only the holder of an invite key makes. Every change is one transaction of a
// [Store] and is on disk before it is answered. Several ledgers may share one
// store; each learns of the others' changes by [Ledger.Refresh].
//
// All methods may be called from several goroutines. Nothing here opens a file:
// package rendezvous/state has the stores.
package ledger

// Package punch opens direct UDP paths between two peers behind NATs.
//
// The peers already talk, through a relay, over an encrypted session. Each
// describes one of its links to the other: ICE credentials, candidates, and
// what is known of the network before it. Then both send connectivity checks
// at the same moment, so that each side's first check opens its own NAT before
// the other's arrives. The outcome is a remote transport address, or a
// [Reason] why there is none. Punch never carries data: the caller proves the
// address with packets of its own and uses it.
//
// A [Mux] shares one UDP socket, or the STUN part of one, among everything
// here. [NewMux] is the first call, one for each local link; [Mux.Gather] finds
// the link's candidates; [NewAgent] then makes one [Agent] for each peer.
// [Agent.Punch] starts an attempt, messages go to the peer through a
// [Signaler] and come back through [Agent.Receive], and OnPair tells of every
// transport address that seems to work, early:
//
//	controlling              controlled
//	     | ---- OFFER ------------> |    description, round trip time
//	     | <----------- ANSWER ---- |    description
//	     |                          |    waits for half a round trip
//	     | check -->      <-- check |    both NATs are open when they arrive
//	     | <-- Heard       Heard -> |    an authenticated check came in
//	     | <-- Valid       Valid -> |    an own check was answered
//	     | nomination ------------> |    Selected
//
// With a round trip R of the session known, Heard comes 1.5 R after the offer
// where relayed and direct round trips are equal, Valid 2 R. Without it a START
// message says when to begin, which costs R/2 more. A new attempt, after a
// change of the network, is a new generation with new credentials on the same
// socket; the old one and paths in use stay until the new one has a result.
//
// All exported methods may be called from several goroutines. Callbacks run on
// goroutines of the agent; they must not block or call Close. Everything works
// inside a bubble of testing/synctest, and ends with Close.
//
// [Classify] and [Mux.Discover] name the behavior of a network in the terms of
// RFC 4787, and [Explain] says which two behaviors cannot meet. What the
// servers at hand cannot tell stays unknown.
//
// Where one side maps by destination, checks do not meet, and both sides then
// search, with many sockets or ports told beforehand (docs/wire-format-punch.md,
// section 5). That takes [Link.Listen], [AgentConfig.Prove] and [Agent.Proven];
// the pair may end on a socket of its own, [Pair.Conn].
//
// Port mapping protocols are package portmap's. Not handled: TCP, keeping a path alive (the
// transport's business), and the proof that full-size packets pass.
//
// Sources: RFC 8445 (ICE) as pion/ice implements it, RFC 8489 (STUN), RFC 4787
// (NAT behavior), RFC 5780 (behavior discovery), RFC 6890 (special-purpose
// addresses), and the synchronised start of libp2p's DCUtR.
package punch

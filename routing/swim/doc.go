// Package swim notices within two seconds that a member died, and takes care
// that nobody alive is taken for dead.
//
// A [Detector] watches the members that it is given. It asks the two that
// follow its node in the ring of positions, and one more in turn, every
// [Config.Period] whether they live, and lets others ask when it gets no
// answer, since paths through NATs fail in one direction. A member that
// nobody could reach is suspected, which all learn by rumour within a few
// round trips. It is removed when it has not refuted that for
// [Config.RemoveAfter]. Every node decides that for itself: no message can
// remove anybody.
//
// With [Config.OnDemand] nobody is asked without a reason: [Detector.Engage] says
// whose death has to be known soon, and [Detector.Doubt] that something else, such
// as the keepalives of a session, speaks against a member.
//
// What refutes a suspicion is a [Pulse]: a number that grows, signed by the
// member itself. Each message carries the pulse of its sender, so whoever
// hears a suspected member, even one that itself hears nothing, can prove to
// everybody that it lives. Pulses take the place of SWIM's incarnations.
//
// A node that was stopped or has no processor time blames itself first:
// what it missed while it was away counts against nobody, and the more of its
// probes fail the longer it waits (local health).
//
// Start with [New], then [Detector.Add]. A Detector is a state machine that
// one goroutine owns, with neither clock nor goroutine. [Accrual] is
// independent of it and watches one session by its own traffic.
//
// The package does not find members and does not decide who is one; whoever
// gives it a member has verified it.
//
// Sources: SWIM (Das, Gupta, Motivala 2002); Lifeguard (Dadgar, Phillips,
// Currey 2017); the phi accrual failure detector (Hayashibara and others
// 2004). The messages are in docs/routing-protocol.md, section 8.
package swim

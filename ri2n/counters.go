package ri2n

import "sync/atomic"

// counters of one endpoint. Every limit and every kind of dropped datagram
// has one, since none of them is logged.
type counters struct {
	datagramsReceived atomic.Uint64
	bytesReceived     atomic.Uint64
	datagramsSent     atomic.Uint64
	bytesSent         atomic.Uint64
	sendErrors        atomic.Uint64

	reads  atomic.Uint64 // system calls that brought datagrams
	bursts atomic.Uint64 // runs of datagrams for one system call

	packetsLost       atomic.Uint64
	packetsSpurious   atomic.Uint64
	packetsReinjected atomic.Uint64
	probeTimeouts     atomic.Uint64
	keyUpdates        atomic.Uint64 // of what we send
	retriesReceived   atomic.Uint64

	stalls stallCounters

	malformed            atomic.Uint64 // headers that do not parse
	unknownConnection    atomic.Uint64 // no session has the connection ID
	authenticationFailed atomic.Uint64 // AEAD said no
	mac1Failed           atomic.Uint64

	undersizedInitials atomic.Uint64
	duplicates         atomic.Uint64 // replayed or duplicated packets

	retriesSent          atomic.Uint64
	tokensRefused        atomic.Uint64
	amplificationLimited atomic.Uint64 // replies withheld by the 3x limit

	handshakesStarted    atomic.Uint64
	handshakesCompleted  atomic.Uint64
	handshakesFailed     atomic.Uint64
	handshakesRefused    atomic.Uint64 // by Authorize
	handshakeJobsDropped atomic.Uint64
	halfOpenRefused      atomic.Uint64

	halfOpenEvicted atomic.Uint64 // begun with unproven addresses before a flood
	handshakesHeld  atomic.Uint64 // no processor time was left for them
	repliesHeld     atomic.Uint64 // Retries and versions withheld by the limit of a prefix

	handshakeDatagramsDropped atomic.Uint64 // more than one handshake needs
	earlyPacketsDropped       atomic.Uint64 // 1-RTT packets ahead of the handshake

	sessions             atomic.Uint64
	sessionsRefused      atomic.Uint64
	acceptQueueOverflows atomic.Uint64

	violations          atomic.Uint64 // sessions closed for a breach
	statelessResetsSent atomic.Uint64
	statelessResetsHeld atomic.Uint64 // withheld by the rate limit

	pathsRefused      atomic.Uint64
	acksStarved       atomic.Uint64 // packets given up, since a peer that sends acknowledged none
	challengesDropped atomic.Uint64 // PATH_CHALLENGE beyond those that wait for their response
	pathFailovers     atomic.Uint64
	closedPathPackets atomic.Uint64 // late ones of abandoned paths

	streamGapsRefused     atomic.Uint64 // packets with more holes in a stream than are kept
	otherDatagramsDropped atomic.Uint64 // not RI2N, and nobody read them in time

	datagramInboxDropped atomic.Uint64
	datagramQueueDropped atomic.Uint64
	windowsHeld          atomic.Uint64 // that did not grow, see Config.BufferBudget

	burstsDistrusted atomic.Uint64 // paths on which the kernel no longer cuts up bursts

	datagramCopiesReceived atomic.Uint64 // known already
	bytesCopied            atomic.Uint64 // stream data sent on one more path
	copiesDropped          atomic.Uint64 // ranges that were to be, but too many waited
}

// Stats is a snapshot of an endpoint's counters since its start.
type Stats struct {
	DatagramsReceived, BytesReceived                               uint64
	DatagramsSent, BytesSent, SendErrors                           uint64
	Malformed, UnknownConnection, AuthenticationFailed, Mac1Failed uint64
	UndersizedInitials, Duplicates                                 uint64
	RetriesSent, TokensRefused, AmplificationLimited               uint64
	HandshakesStarted, HandshakesCompleted, HandshakesFailed       uint64
	HandshakesRefused, HandshakeJobsDropped, HalfOpenRefused       uint64
	HalfOpenEvicted, HandshakesHeld, RepliesHeld                   uint64
	HandshakeDatagramsDropped, EarlyPacketsDropped                 uint64
	SessionsStarted, SessionsRefused, AcceptQueueOverflows         uint64
	Violations, StatelessResetsSent, StatelessResetsHeld           uint64
	PathsRefused, PathFailovers, ClosedPathPackets                 uint64
	ChallengesDropped, AcksStarved                                 uint64
	StreamGapsRefused, OtherDatagramsDropped                       uint64
	WindowsHeld                                                    uint64 // see Config.BufferBudget
	DatagramInboxDropped, DatagramQueueDropped                     uint64
	BurstsDistrusted                                               uint64
	DatagramCopiesReceived, BytesCopied, CopiesDropped             uint64

	Reads             uint64 // system calls that brought datagrams; DatagramsReceived/Reads is the length of one
	Bursts            uint64 // runs of datagrams for one system call; DatagramsSent/Bursts is the length of one
	PacketsLost       uint64 // as in SessionStats, of all sessions, the ended ones included
	PacketsSpurious   uint64
	PacketsReinjected uint64
	ProbeTimeouts     uint64
	KeyUpdates        uint64 // of the keys of what this endpoint sends
	RetriesReceived   uint64 // dials that had to prove their address first
	Stalls            StallHistogram

	// Now.
	Sessions, Links int
}

// Stats returns the endpoint's counters.
func (e *Endpoint) Stats() Stats {
	c := &e.counters
	e.mu.Lock()
	sessions, links := len(e.sessions), len(e.links)
	e.mu.Unlock()
	return Stats{
		DatagramsReceived: c.datagramsReceived.Load(),
		BytesReceived:     c.bytesReceived.Load(),
		DatagramsSent:     c.datagramsSent.Load(),
		BytesSent:         c.bytesSent.Load(),
		SendErrors:        c.sendErrors.Load(),

		Malformed:            c.malformed.Load(),
		UnknownConnection:    c.unknownConnection.Load(),
		AuthenticationFailed: c.authenticationFailed.Load(),
		Mac1Failed:           c.mac1Failed.Load(),

		UndersizedInitials: c.undersizedInitials.Load(),
		Duplicates:         c.duplicates.Load(),

		RetriesSent:          c.retriesSent.Load(),
		TokensRefused:        c.tokensRefused.Load(),
		AmplificationLimited: c.amplificationLimited.Load(),

		HandshakesStarted:    c.handshakesStarted.Load(),
		HandshakesCompleted:  c.handshakesCompleted.Load(),
		HandshakesFailed:     c.handshakesFailed.Load(),
		HandshakesRefused:    c.handshakesRefused.Load(),
		HandshakeJobsDropped: c.handshakeJobsDropped.Load(),
		HalfOpenRefused:      c.halfOpenRefused.Load(),

		HalfOpenEvicted: c.halfOpenEvicted.Load(),
		HandshakesHeld:  c.handshakesHeld.Load(),
		RepliesHeld:     c.repliesHeld.Load(),

		EarlyPacketsDropped: c.earlyPacketsDropped.Load(),

		HandshakeDatagramsDropped: c.handshakeDatagramsDropped.Load(),
		SessionsStarted:           c.sessions.Load(),
		SessionsRefused:           c.sessionsRefused.Load(),
		AcceptQueueOverflows:      c.acceptQueueOverflows.Load(),

		Violations:          c.violations.Load(),
		StatelessResetsSent: c.statelessResetsSent.Load(),
		StatelessResetsHeld: c.statelessResetsHeld.Load(),

		PathsRefused:      c.pathsRefused.Load(),
		AcksStarved:       c.acksStarved.Load(),
		ChallengesDropped: c.challengesDropped.Load(),
		PathFailovers:     c.pathFailovers.Load(),
		ClosedPathPackets: c.closedPathPackets.Load(),

		StreamGapsRefused:     c.streamGapsRefused.Load(),
		OtherDatagramsDropped: c.otherDatagramsDropped.Load(),

		DatagramInboxDropped: c.datagramInboxDropped.Load(),
		DatagramQueueDropped: c.datagramQueueDropped.Load(),
		WindowsHeld:          c.windowsHeld.Load(),

		BurstsDistrusted: c.burstsDistrusted.Load(),

		DatagramCopiesReceived: c.datagramCopiesReceived.Load(),
		BytesCopied:            c.bytesCopied.Load(),
		CopiesDropped:          c.copiesDropped.Load(),
		Reads:                  c.reads.Load(),
		Bursts:                 c.bursts.Load(),

		PacketsLost:       c.packetsLost.Load(),
		PacketsSpurious:   c.packetsSpurious.Load(),
		PacketsReinjected: c.packetsReinjected.Load(),
		ProbeTimeouts:     c.probeTimeouts.Load(),
		KeyUpdates:        c.keyUpdates.Load(),
		RetriesReceived:   c.retriesReceived.Load(),

		Stalls: c.stalls.snapshot(),

		Sessions: sessions,
		Links:    links,
	}
}

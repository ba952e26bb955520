package punch

// A Reason says why two peers do not talk directly. The list is closed, and
// both ends of a session show the same one: the ICE-controlling side decides
// and tells the other. The empty Reason means that nothing stands in the way.
type Reason string

const (
	// Direct is the absence of a reason.
	Direct Reason = ""
	// Connecting: an attempt is under way.
	Connecting Reason = "connecting"
	// NoValidPair: every candidate pair failed, for no cause that is known.
	NoValidPair Reason = "no-valid-pair"
	// MappingAndFiltering: one side maps by destination and the other filters
	// by address and port.
	MappingAndFiltering Reason = "mapping-and-filtering"
	// MappingBoth: both sides map by destination.
	MappingBoth Reason = "mapping-both"
	// UDPIsBlocked: no UDP leaves or enters one of the two networks.
	UDPIsBlocked Reason = "udp-blocked"
	// ProofFailed: small packets pass, full-size ones do not.
	ProofFailed Reason = "proof-failed"
	// PathDied: there was a direct path, and it went silent.
	PathDied Reason = "path-died"
	// Policy: one side is configured not to connect directly.
	Policy Reason = "policy"
	// PeerTooOld: the peer speaks no version of this protocol that we speak.
	PeerTooOld Reason = "peer-too-old"
)

// reasons gives each Reason its number on the wire, the index, and its advice.
var reasons = [...]struct {
	reason Reason
	advice string
}{
	{Direct, ""},
	{Connecting, "wait a few seconds"},
	{NoValidPair, "check that both firewalls let UDP out to any port; it is tried again by itself"},
	{MappingAndFiltering, "one network maps by destination and the other filters by port: forward a UDP port or enable port mapping (PCP, NAT-PMP or UPnP) on either router, or use IPv6"},
	{MappingBoth, "both networks map by destination: forward a UDP port or enable port mapping (PCP, NAT-PMP or UPnP) on either router, or use IPv6"},
	{UDPIsBlocked, "one network blocks UDP: ask for UDP to be let out, or use another network"},
	{ProofFailed, "small packets pass but full-size ones are lost: look for a link with a small MTU or a firewall that drops large UDP packets"},
	{PathDied, "the direct path went silent; a new one is looked for by itself"},
	{Policy, "the configuration of one side forbids direct connections"},
	{PeerTooOld, "update the peer's software"},
}

// Advice says what would change it, in a phrase for people.
func (r Reason) Advice() string {
	for _, x := range reasons {
		if x.reason == r {
			return x.advice
		}
	}
	return ""
}

// code returns the number of r on the wire.
func (r Reason) code() (byte, bool) {
	for i, x := range reasons {
		if x.reason == r {
			return byte(i), true
		}
	}
	return 0, false
}

// byDestination holds the mappings that depend on the destination.
const byDestination = AddressDependent | AddressAndPortDependent

// pairReason is the rule for two networks whose behaviors are known, with
// random port allocation and filter state for each mapping.
func pairReason(aMaps, aFilters, bMaps, bFilters Dependence) Reason {
	aHard, bHard := aMaps&byDestination != 0, bMaps&byDestination != 0
	byPort := func(d Dependence) bool { return d == AddressAndPortDependent }
	switch {
	case aHard && bHard:
		if aFilters == AddressDependent && bFilters == AddressDependent ||
			byPort(aMaps) && byPort(bMaps) || byPort(aFilters) || byPort(bFilters) {
			return MappingBoth
		}
	case aHard && byPort(bFilters), bHard && byPort(aFilters):
		return MappingAndFiltering
	}
	return Direct
}

// predict says whether a pair becomes direct, by the rule or since a search
// finds the port of the one side that maps by destination, and whether that
// holds for every behavior that is still possible.
func predict(local, remote Behavior) (direct, certain bool) {
	var yes, no bool
	eachPossible(local, remote, func(r Reason) {
		if r == Direct || r == MappingAndFiltering {
			yes = true
		} else {
			no = true
		}
	})
	return yes, yes != no
}

// eachPossible calls f with the outcome of every combination of behaviors
// that is still possible.
func eachPossible(local, remote Behavior, f func(Reason)) {
	for _, lm := range dependenceNames {
		for _, lf := range dependenceNames {
			for _, rm := range dependenceNames {
				for _, rf := range dependenceNames {
					if local.Mapping.may(lm.one) && local.Filtering.may(lf.one) &&
						remote.Mapping.may(rm.one) && remote.Filtering.may(rf.one) {
						f(pairReason(lm.one, lf.one, rm.one, rf.one))
					}
				}
			}
		}
	}
}

// Explain returns the reason why the pair of networks cannot connect directly
// when ports are allocated at random, or Direct when the rule lets them. Where
// a behavior is unknown it blames a mapping only if that side surely maps by
// destination, and then takes the filtering to be the stricter one.
//
// The rule: direct, unless one side maps by destination and the other filters
// by address and port, or both map by destination and (both filterings are
// address-dependent, or both mappings are address and port-dependent, or
// either filters by port).
func Explain(local, remote Behavior) Reason {
	if local.UDPBlocked == Yes || remote.UDPBlocked == Yes {
		return UDPIsBlocked
	}
	localHard, remoteHard := local.Mapping.must(byDestination), remote.Mapping.must(byDestination)
	if !localHard && !remoteHard {
		return Direct
	}
	// With one side hard, an open question about the other side's mapping
	// counts in its favour: mapping-both needs evidence on both sides.
	settle := func(b *Behavior, hard bool) {
		if !hard {
			b.Mapping = EndpointIndependent
		}
	}
	settle(&local, localHard)
	settle(&remote, remoteHard)
	worst := Direct
	eachPossible(local, remote, func(r Reason) {
		if r != Direct {
			worst = r
		}
	})
	return worst
}

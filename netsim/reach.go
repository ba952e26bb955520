package netsim

// DirectPossible is the rule of which two hosts behind NATs of these types can
// reach each other directly, when a third party tells each the other's mapped
// address, both keep sending, also to whatever address a packet came from, and
// an answer counts that comes from where the request went (RFC 8445, section
// 7.2.5.2.1). It holds for ports that cannot be guessed (random
// allocation) and filter state kept for each mapping.
//
// A pair is direct unless one side maps by destination and the other filters
// by address and port, or both map by destination and both filter by address
// alone, or both map by address and port, or either filters by port. So 23 of
// the 45 pairs of the nine types are direct.
func DirectPossible(a, b NATType) bool {
	byDestination := func(t NATType) bool { return t.Mapping != EndpointIndependent }
	filtersPort := func(t NATType) bool { return t.Filtering == AddressAndPortDependent }
	if byDestination(a) && filtersPort(b) || byDestination(b) && filtersPort(a) {
		return false
	}
	if byDestination(a) && byDestination(b) {
		bothAddress := a.Filtering == AddressDependent && b.Filtering == AddressDependent
		bothPort := a.Mapping == AddressAndPortDependent && b.Mapping == AddressAndPortDependent
		return !bothAddress && !bothPort && !filtersPort(a) && !filtersPort(b)
	}
	return true
}

package routing

// Counters count what a node did since it was made. Every limit has one.
type Counters struct {
	Sent     uint64 `json:"sent"` // messages
	Received uint64 `json:"received"`

	Malformed   uint64 `json:"malformed"`   // messages that no parser took
	Unexpected  uint64 `json:"unexpected"`  // answers that nobody waits for
	Limited     uint64 `json:"limited"`     // requests refused since the sender exceeds RequestRate
	Impostors   uint64 `json:"impostors"`   // members that Config.Verify refused
	Lies        uint64 `json:"lies"`        // answers dropped for what they contain
	Timeouts    uint64 `json:"timeouts"`    // requests without an answer
	Unreachable uint64 `json:"unreachable"` // requests ended since the messenger could not send

	Lookups      uint64 `json:"lookups"`       // lookups begun
	LookupsBusy  uint64 `json:"lookups_busy"`  // lookups refused since MaxLookups are under way
	RequestsBusy uint64 `json:"requests_busy"` // requests refused since MaxRequests are under way
	Crowded      uint64 `json:"crowded"`       // lookups that found the key suspiciously crowded

	RoutedOn       uint64 `json:"routed_on"`       // routed messages passed on
	Delivered      uint64 `json:"delivered"`       // routed messages delivered here
	RouteRepeated  uint64 `json:"route_repeated"`  // of those, dropped as repetitions
	RouteUnserved  uint64 `json:"route_unserved"`  // of those, dropped since nobody serves them
	RouteHops      uint64 `json:"route_hops"`      // routed messages dropped at the hop limit
	RouteAbandoned uint64 `json:"route_abandoned"` // routed messages dropped after too many tries

	Evicted uint64 `json:"evicted"` // contacts removed since they did not answer
}

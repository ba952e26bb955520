package routing

// Counters count what a node did since it was made. Every limit has one.
type Counters struct {
	Sent, Received uint64 // messages

	Malformed  uint64 // messages that no parser took
	Unexpected uint64 // answers that nobody waits for
	Limited    uint64 // requests refused since the sender exceeds RequestRate
	Impostors  uint64 // members that Config.Verify refused
	Lies       uint64 // answers dropped for what they contain
	Timeouts   uint64 // requests without an answer

	Lookups      uint64 // lookups begun
	LookupsBusy  uint64 // lookups refused since MaxLookups are under way
	RequestsBusy uint64 // requests refused since MaxRequests are under way
	Crowded      uint64 // lookups that found the key suspiciously crowded

	RoutedOn       uint64 // routed messages passed on
	Delivered      uint64 // routed messages delivered here
	RouteRepeated  uint64 // of those, dropped as repetitions
	RouteUnserved  uint64 // of those, dropped since nobody serves them
	RouteHops      uint64 // routed messages dropped at the hop limit
	RouteAbandoned uint64 // routed messages dropped after too many tries

	Evicted uint64 // contacts removed since they did not answer
}

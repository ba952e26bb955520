package rpc

// Counters count since the client's start. Each limit has one.
type Counters struct {
	Settled     uint64 `json:"settled"` // calls that ended with a result, errors of the function included
	Failed      uint64 `json:"failed"`  // calls that ended without one
	Attempts    uint64 `json:"attempts"`
	Retries     uint64 `json:"retries"`    // attempts after a call's first
	Copies      uint64 `json:"copies"`     // of stragglers
	Suspicions  uint64 `json:"suspicions"` // times that a worker fell silent
	WorkersLost uint64 `json:"workers_lost"`
	Poisoned    uint64 `json:"poisoned"` // calls that killed too many workers
	SpotChecks  uint64 `json:"spot_checks"`
	Lies        uint64 `json:"lies"`     // results that the others contradicted
	Isolated    uint64 `json:"isolated"` // workers that lied too often

	ResultsTooLarge uint64 `json:"results_too_large"`
}

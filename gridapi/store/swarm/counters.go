package swarm

// Counters count since the Swarm's start. Bytes are those of chunks, without
// framing. Each limit has one.
type Counters struct {
	LANBytesIn  uint64 `json:"lan_bytes_in"` // from members of our site
	LANBytesOut uint64 `json:"lan_bytes_out"`
	WANBytesIn  uint64 `json:"wan_bytes_in"`
	WANBytesOut uint64 `json:"wan_bytes_out"`
	ChunksIn    uint64 `json:"chunks_in"`
	ChunksOut   uint64 `json:"chunks_out"`
	Wasted      uint64 `json:"wasted_bytes"` // came though the chunk was held already
	Cut         uint64 `json:"cut_bytes"`    // of chunks that ended in the middle

	Reasked    uint64 `json:"reasked"`   // chunks asked of another member, since the first was lost or silent
	Withdrawn  uint64 `json:"withdrawn"` // chunks asked of another member that is faster
	Stalls     uint64 `json:"stalls"`    // times a member fell silent
	FalseHaves uint64 `json:"false_haves"`
	Poisoned   uint64 `json:"poisoned"` // chunks with another hash
	Malformed  uint64 `json:"malformed"`
	Floods     uint64 `json:"floods"`  // connections ended for asking too much
	Banned     uint64 `json:"banned"`  // connections refused for what the member did before
	Refused    uint64 `json:"refused"` // connections beyond the limit
	NotHeld    uint64 `json:"not_held"`
	Busy       uint64 `json:"busy"` // asks beyond the limit
	Collected  uint64 `json:"collected"`
	Kept       uint64 `json:"kept"`
	KeepsNot   uint64 `json:"keeps_refused"`
}

// PeerCounters are those of one member, as long as it is connected.
type PeerCounters struct {
	Member       string `json:"member"`
	Site         string `json:"site"`
	Local        bool   `json:"local"` // of our site
	BytesIn      uint64 `json:"bytes_in"`
	BytesOut     uint64 `json:"bytes_out"`
	InFlight     int    `json:"in_flight"`      // chunks asked of it
	RateBytesSec uint64 `json:"rate_bytes_sec"` // at which it sends, as measured; zero: unknown
}

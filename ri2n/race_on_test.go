//go:build race

package ri2n

// raceEnabled says that the race detector slows everything tenfold. The long
// simulations of congestion control, which have one goroutine, then run one
// row of their tables.
const raceEnabled = true

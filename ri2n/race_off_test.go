//go:build !race

package ri2n

const raceEnabled = false

package swim

import "time"

// health is Lifeguard's local health multiplier: a score that grows when
// things fail in a way for which this node may be the cause, and that
// stretches its patience (Lifeguard, section 4.1).
type health struct {
	score int // from 0, well, to maxHealth
}

// maxHealth is Lifeguard's S.
const maxHealth = 8

func (h *health) add(n int) { h.score = min(maxHealth, max(0, h.score+n)) }

// stretch returns d as a node of this health waits it.
func (h *health) stretch(d time.Duration) time.Duration {
	return d * time.Duration(h.score+1)
}

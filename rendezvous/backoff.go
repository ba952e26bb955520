package rendezvous

import (
	"math/rand/v2"
	"time"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffCap   = 5 * time.Second
	// backoffSpread is how far the first attempts of those spread who lose
	// the same server at one moment: a 2-core server makes some 2,000
	// handshakes a second, and what exceeds that comes again.
	backoffSpread = time.Second
	// backoffRefused is the least pause after a refusal, which only a person
	// can change.
	backoffRefused = 5 * time.Second
	// backoffSuperseded keeps two programs with one key from chasing each
	// other off.
	backoffSuperseded = 30 * time.Second
)

// A backoff paces attempts to reach the server. The zero value begins.
type backoff struct {
	failures int
}

// reset is called when a session has been registered.
func (b *backoff) reset() { b.failures = 0 }

// lost returns the pause after a registered session was lost.
func (b *backoff) lost(random *rand.Rand) time.Duration {
	return time.Duration(random.Int64N(int64(backoffSpread)))
}

// failed returns the pause after one more failure: doubling from 100 ms to
// 5 s, each between half and one and a half of that.
func (b *backoff) failed(random *rand.Rand) time.Duration {
	d := backoffCap
	if b.failures < 6 {
		d = min(backoffFirst<<b.failures, backoffCap)
	}
	b.failures++
	return jitter(random, d, 0.5)
}

// jitter returns d changed by at most share of it, either way.
func jitter(random *rand.Rand, d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 - share + 2*share*random.Float64()))
}

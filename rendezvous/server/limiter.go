package server

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// limiterSlots bounds a limiter's memory: 256 KiB, whoever sends.
const limiterSlots = 1 << 15

// A limiter allows each key a rate with a burst (the generic cell rate
// algorithm). Keys are hashed, under a secret seed, to a fixed number of slots;
// two keys that meet in a slot share its rate. It is safe for concurrent use.
type limiter struct {
	seed  maphash.Seed
	every int64 // nanoseconds that one event costs
	slack int64 // nanoseconds that may be owed
	slots []atomic.Int64
}

// newLimiter allows perSecond events, which must be positive, after a burst of
// burst, which is at least one.
func newLimiter(perSecond float64, burst int) *limiter {
	every := int64(float64(time.Second) / perSecond)
	return &limiter{
		seed:  maphash.MakeSeed(),
		every: every,
		slack: every * int64(max(burst, 1)-1),
		slots: make([]atomic.Int64, limiterSlots),
	}
}

// allow reports whether one more event of key may happen at now, and counts it
// if so.
func (l *limiter) allow(now time.Time, key netip.Prefix) bool {
	slot := &l.slots[maphash.Comparable(l.seed, key)%limiterSlots]
	n := now.UnixNano()
	for {
		paid := slot.Load() // when all that was allowed is paid for
		next := max(paid, n)
		if next-n > l.slack {
			return false
		}
		if slot.CompareAndSwap(paid, next+l.every) {
			return true
		}
	}
}

// hostOf returns addr alone as a prefix.
func hostOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen())
}

package links

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Config configures [Watch]. The zero value works.
type Config struct {
	// Skip tells of interfaces that are not reported. Nil means Internal.
	Skip func(name string) bool

	// Own are prefixes whose addresses are not reported: those of the
	// overlay's own interface.
	Own []netip.Prefix

	// Settle is how long an address must have been there before it is
	// reported. Zero means 500 ms; a negative value means at once.
	Settle time.Duration

	// Poll is the time between two looks that nothing has asked for. Zero
	// means 5 s, or 2 s where the system does not tell of changes.
	Poll time.Duration
}

// A Change is what is different since the last report.
type Change struct {
	Gone, New []Address
	All       []Address // that are usable now, sorted
}

// Usable returns the addresses that there are now, settled or not.
func Usable(c Config) ([]Address, error) {
	c.setDefaults(true)
	list, err := attachments()
	if err != nil {
		return nil, fmt.Errorf("links: list interfaces: %w", err)
	}
	return c.usable(list), nil
}

func (c *Config) setDefaults(told bool) {
	if c.Skip == nil {
		c.Skip = Internal
	}
	if c.Settle == 0 {
		c.Settle = 500 * time.Millisecond
	}
	if c.Poll == 0 {
		c.Poll = 2 * time.Second
		if told {
			c.Poll = 5 * time.Second
		}
	}
}

// Watch calls report on its own goroutine, the caller's: first with what is
// there, without waiting for it to settle, maybe nothing, then at each change,
// until ctx ends, whose error it returns. An error of the system at the start
// ends it as well; later ones are passed over, since the next look may succeed.
func Watch(ctx context.Context, c Config, report func(Change)) error {
	wake := make(chan struct{}, 1)
	stop, told := subscribe(wake)
	defer stop()
	c.setDefaults(told)
	return c.watch(ctx, wake, attachments, report)
}

func (c *Config) watch(ctx context.Context, wake <-chan struct{}, look func() ([]attachment, error), report func(Change)) error {
	list, err := look()
	if err != nil {
		return fmt.Errorf("links: list interfaces: %w", err)
	}
	k := keeper{known: c.usable(list)}
	report(Change{New: slices.Clone(k.known), All: slices.Clone(k.known)})
	timer := time.NewTimer(c.Poll)
	defer timer.Stop()
	for {
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		next := c.Poll
		if list, err := look(); err == nil {
			change, due := k.update(now, c.usable(list), c.Settle)
			if len(change.Gone)+len(change.New) > 0 {
				report(change)
			}
			if !due.IsZero() {
				next = min(next, max(due.Sub(now), 0))
			}
		}
		timer.Reset(next)
	}
}

// A keeper compares what is there with what has been reported.
type keeper struct {
	known   []Address // reported
	waiting []waiting
}

// waiting is an address that has not settled.
type waiting struct {
	addr  Address
	since time.Time
}

// update takes what is there at now and returns what is to be reported, and
// when the next address will have settled; zero: none waits.
func (k *keeper) update(now time.Time, present []Address, settle time.Duration) (c Change, due time.Time) {
	k.known = slices.DeleteFunc(k.known, func(a Address) bool {
		gone := !slices.Contains(present, a)
		if gone {
			c.Gone = append(c.Gone, a)
		}
		return gone
	})
	k.waiting = slices.DeleteFunc(k.waiting, func(w waiting) bool { return !slices.Contains(present, w.addr) })
	for _, a := range present {
		if slices.Contains(k.known, a) {
			continue
		}
		i := slices.IndexFunc(k.waiting, func(w waiting) bool { return w.addr == a })
		if i < 0 {
			k.waiting = append(k.waiting, waiting{a, now})
			i = len(k.waiting) - 1
		}
		if at := k.waiting[i].since.Add(settle); now.Before(at) {
			if due.IsZero() || at.Before(due) {
				due = at
			}
			continue
		}
		k.waiting = slices.Delete(k.waiting, i, i+1)
		k.known = append(k.known, a)
		c.New = append(c.New, a)
	}
	slices.SortFunc(k.known, compare)
	c.All = slices.Clone(k.known)
	return c, due
}

package relay

import (
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
)

func TestLevel(t *testing.T) {
	for _, tt := range []struct {
		name     string
		capacity float64
		wants    []float64
		want     float64
	}{
		{"nobody", 100, nil, 100},
		{"one wants less", 100, []float64{30}, 70},
		{"one wants more", 100, []float64{300}, 100},
		{"equal", 100, []float64{80, 80}, 50},
		{"a small one leaves the rest to the others", 100, []float64{90, 10, 90}, 45},
		{"all fit", 100, []float64{10, 20}, 70},
	} {
		if got := level(tt.capacity, tt.wants); got != tt.want {
			t.Errorf("%s: level = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A relay with a rate for all gives a hog no more than its share of it, and
// lets one that is alone have it all.
func TestTotalRateIsShared(t *testing.T) {
	r := newRig(t, Chosen, Limits{TotalRate: 1_000_000})
	a, b, c := r.join(1), r.join(2), r.join(3)
	for i, from := range []*Agent{a, b} {
		r.receive(r.now, from, protocol.Open{Channel: 0, Key: 7, Generation: 1, Target: c.peer})
		r.sends(from, 0, 100)
		r.sends(c, uint64(2*i+1), 100) // consent
	}
	passed := func(seconds int, hog, honest int) (byHog, byHonest int) {
		for range seconds {
			for range 100 {
				r.now = r.now.Add(10 * time.Millisecond)
				for range hog {
					if r.sends(a, 0, 1000) {
						byHog += 1000
					}
				}
				for range honest {
					if r.sends(b, 0, 1000) {
						byHonest += 1000
					}
				}
			}
			r.expire(r.now)
		}
		return byHog / seconds, byHonest / seconds
	}
	passed(3, 40, 6) // 4 MB/s and 0.6 MB/s offered
	if hog, honest := passed(5, 40, 6); honest < 450_000 || hog > 560_000 {
		t.Errorf("of 1 MB/s the hog has %d and the honest one %d bytes a second, want half each", hog, honest)
	}
	passed(3, 40, 0)
	if hog, _ := passed(5, 40, 0); hog < 950_000 || hog > 1_100_000 {
		t.Errorf("alone it has %d bytes a second, want 1 MB/s", hog)
	}
}

func TestDailyQuota(t *testing.T) {
	r := newRig(t, Chosen, Limits{RelayQuota: 10_000})
	a, b := r.joined() // 100 bytes of each
	for i := range 9 {
		if !r.sends(a, 0, 1100) {
			t.Fatalf("datagram %d did not pass", i)
		}
	}
	if r.sends(a, 0, 1100) {
		t.Error("a datagram passed beyond the quota")
	}
	r.wants(a, protocol.Closed{Channel: 0, Reason: protocol.ReasonQuota})
	r.wants(b, protocol.Closed{Channel: 1, Reason: protocol.ReasonQuota})
	r.receive(r.now, a, protocol.Open{Channel: 2, Key: 7, Generation: 2, Target: b.peer})
	r.wants(a, protocol.Refused{Channel: 2, Reason: protocol.ReasonQuota})
	// It cannot begin anew by coming back.
	r.leave(r.now, a)
	r.now = r.now.Add(time.Hour)
	r.expire(r.now)
	again, target := r.join(1), r.join(2)
	r.receive(r.now, again, protocol.Open{Channel: 0, Key: 7, Generation: 3, Target: target.peer})
	r.wants(again, protocol.Refused{Channel: 0, Reason: protocol.ReasonQuota})
	r.now = r.now.Add(quotaTime)
	if !r.table.maySpend(again.account, r.now) {
		t.Error("the quota is not new after a day")
	}
}

// A relay for chosen peers admits no guests.
func TestChosenTakesNoDeposits(t *testing.T) {
	r := newRig(t, Chosen, Limits{})
	a := r.join(1)
	r.receive(r.now, a, protocol.Deposit{Request: 1, Expiry: r.now.Add(time.Hour)})
	r.wants(a, protocol.Error{Request: 1, Reason: protocol.ReasonNotAdmitted})
}

package rendezvous

import (
	"testing"
	"time"
)

// A server whose datagrams arrive is alive, though its answer is late; it owes one
// nonetheless.
func TestPatience(t *testing.T) {
	asked := time.Unix(1000, 0)
	for _, tt := range []struct {
		name  string
		heard time.Duration // after the question
		rtt   time.Duration
		want  time.Duration // after the question
	}{
		{"nothing since", -time.Second, 0, replyTime},
		{"nothing since, far away", -time.Second, time.Second, 8 * time.Second},
		{"a datagram", 2 * time.Second, 0, 2*time.Second + replyTime},
		{"datagrams all the time", 11 * time.Second, 0, replyPatience * replyTime},
		{"for longer than that", time.Minute, 0, replyPatience * replyTime},
	} {
		u := &uplink{asked: asked, rtt: tt.rtt}
		u.heard.Store(asked.Add(tt.heard).UnixNano())
		if got := u.patience().Sub(asked); got != tt.want {
			t.Errorf("%s: an answer is owed within %v, want %v", tt.name, got, tt.want)
		}
	}
}

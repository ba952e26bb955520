package ri2n

import (
	"testing"
	"time"
)

func TestAckPolicy(t *testing.T) {
	type packet struct {
		at                               time.Duration
		eliciting, outOfOrder, immediate bool
	}
	const eliciting = true
	for _, tt := range []struct {
		name      string
		threshold int
		packets   []packet
		now       bool
		deadline  time.Duration // negative: none
	}{
		{"nothing", 0, nil, false, -1},
		{"one", 0, []packet{{0, eliciting, false, false}}, false, 5 * ms},
		{"two", 0, []packet{{0, eliciting, false, false}, {ms, eliciting, false, false}}, true, 5 * ms},
		{"two with a threshold of three", 3, []packet{{0, eliciting, false, false}, {ms, eliciting, false, false}}, false, 5 * ms},
		{"ACKs ask for none", 0, []packet{{}, {}, {}, {outOfOrder: true}}, false, -1},
		{"gap", 32, []packet{{0, eliciting, true, false}}, true, 5 * ms},
		{"FIN", 32, []packet{{0, eliciting, false, true}}, true, 5 * ms},
		{"deadline is that of the oldest", 8, []packet{{ms, eliciting, false, false}, {3 * ms, eliciting, false, false}}, false, 6 * ms},
	} {
		p := ackPolicy{threshold: tt.threshold, maxAckDelay: 5 * ms}
		for i, q := range tt.packets {
			p.received(t0.Add(q.at), packetNumber(i), q.eliciting, q.outOfOrder, q.immediate)
		}
		if p.needsAckNow() != tt.now {
			t.Errorf("%s: needsAckNow = %v, want %v", tt.name, p.needsAckNow(), tt.now)
		}
		want := time.Time{}
		if tt.deadline >= 0 {
			want = t0.Add(tt.deadline)
		}
		if !p.deadline().Equal(want) {
			t.Errorf("%s: deadline = %v, want %v", tt.name, p.deadline(), want)
		}
		p.sent()
		if p.needsAckNow() || p.wantsAck() || !p.deadline().IsZero() {
			t.Errorf("%s: an ACK is due although it was sent", tt.name)
		}
	}
}

func TestAckDelayIsThatOfTheLargest(t *testing.T) {
	p := ackPolicy{maxAckDelay: 5 * ms}
	p.received(t0, 7, true, false, false)
	p.received(t0.Add(2*ms), 5, true, true, false)
	if got := p.delay(t0.Add(3 * ms)); got != 3*ms {
		t.Errorf("delay = %v, want 3ms", got)
	}
}

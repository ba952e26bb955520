package mpi

import "testing"

// put hands a frame to p as if rank from had sent it.
func put(p *Process, from int, h header) error {
	b := make([]byte, HeaderLen)
	putHeader(b, h)
	return receiver{p}.Frame(from, b, nil)
}

// TestWithdraw: an announced message that is withdrawn is gone, and its room with
// it; withdrawals of what was never announced change nothing, and an id that is in use
// is not taken twice.
func TestWithdraw(t *testing.T) {
	p, err := Init(&silent{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	rts := func(from int, id uint64) error {
		return put(p, from, header{kind: frameRTS, context: worldContext, id: id, size: 1 << 20})
	}
	for id := range uint64(100) {
		if err := rts(1, id+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := rts(2, 7); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint64{7, 7, 1000, 0} {
		if err := put(p, 1, header{kind: frameWithdraw, id: id}); err != nil {
			t.Fatal(err)
		}
	}
	p.mu.Lock()
	if n := len(p.match.announced); n != 100 || p.match.rts(1, 7) != nil || p.match.rts(2, 7) == nil || p.peers[1].owed != envelopeCost {
		t.Errorf("%d messages wait, %d bytes to give back", n, p.peers[1].owed)
	}
	p.mu.Unlock()
	if err := rts(1, 8); err == nil {
		t.Error("an id that is in use is taken again")
	}
}

// TestEarlyFramesOfOneRank: a rank that fills the room for frames of communicators
// that are yet to come takes it from nobody else.
func TestEarlyFramesOfOneRank(t *testing.T) {
	p, err := Init(&silent{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range uint64(maxEarly) {
		if err := put(p, 1, header{kind: frameRevoke, context: (i + 2) << 2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(p, 1, header{kind: frameRevoke, context: 1 << 20}); err == nil || p.Counters().Overflows != 1 {
		t.Errorf("one more: %v, %d counted", err, p.Counters().Overflows)
	}
	if err := put(p, 2, header{kind: frameRevoke, context: 2 << 2}); err != nil {
		t.Errorf("another rank's: %v", err)
	}
}

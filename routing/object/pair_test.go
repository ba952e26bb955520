package object_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/fifo"
	"github.com/instantgrid/instantgrid/routing/object"
)

// A process is one end of a conversation: it sends numbers, and expects those
// of the other in order. It survives its node, as from a checkpoint.
type process struct {
	r    *rig
	key  routing.Key // its own
	peer routing.Key
	at   int // host

	sender   *fifo.Sender
	receiver *fifo.Receiver
	sent     uint64
	got      []uint64
}

// start makes host i run p.
func (p *process) start(i int) {
	p.at = i
	s := p.r.services[i]
	send := func(now time.Time, frame []byte) { s.Send(now, p.peer, frame) }
	deliver := func(_ time.Time, b []byte) { p.got = append(p.got, binary.BigEndian.Uint64(b)) }
	if p.sender == nil {
		p.sender, p.receiver = fifo.NewSender(1, send), fifo.NewReceiver(0, 0, send, deliver)
	} else {
		first, unacked := p.sender.Unacked()
		p.sender = fifo.ResumeSender(p.r.Now(), 1, first, unacked, send)
		session, next := p.receiver.Next()
		p.receiver = fifo.NewReceiver(session, next, send, deliver)
	}
	s.Host(p.key, func(now time.Time, d object.Delivery) {
		if p.at != i {
			return
		}
		var err error
		if fifo.IsAck(d.Payload) {
			err = p.sender.Receive(now, d.Payload)
		} else {
			err = p.receiver.Receive(now, d.Payload)
		}
		if err != nil {
			p.r.t.Error(err)
		}
		p.r.Touch(i)
	})
	p.r.Host(i).Machines = append(p.r.Host(i).Machines, p)
	p.r.Touch(i)
}

// Advance and Deadline make p a machine of its host.
func (p *process) Advance(now time.Time)   { p.sender.Advance(now) }
func (p *process) Deadline() (d time.Time) { return p.sender.Deadline() }

// say sends the next number, if the window allows.
func (p *process) say() {
	if p.sender.Send(p.r.Now(), binary.BigEndian.AppendUint64(nil, p.sent)) == nil {
		p.sent++
	}
	p.r.Touch(p.at)
}

// Two processes exchange messages while the nodes that hold their location
// objects die, one of them moves, and its node dies in the end.
func TestNoMessageIsLostRepeatedOrReordered(t *testing.T) {
	r := newRig(t, 8, 40)
	r.Loss = 0.02
	var procs [2]*process
	recs := [2]*object.Record{r.record(0, 1, 1, 1), r.record(0, 2, 2, 1)}
	for i := range procs {
		procs[i] = &process{r: r, key: recs[i].Key(), peer: recs[1-i].Key()}
		if _, err := r.swap(0, 0, recs[i]); err != nil {
			t.Fatal(err)
		}
		r.services[i+1].Hold(r.Now(), recs[i], func(time.Time, object.Entry) {})
		procs[i].start(i + 1)
	}
	talk := func(d time.Duration) {
		for range int(d / (20 * time.Millisecond)) {
			for _, p := range procs {
				p.say()
			}
			r.Run(20 * time.Millisecond)
		}
	}
	// nearest returns the host nearest to key that runs nothing of ours.
	nearest := func(key routing.Key) int {
		best := -1
		for i := 5; i < 40; i++ {
			if r.Alive(i) && (best < 0 || key.Xor(r.Nodes[i].Self().Position()).Compare(key.Xor(r.Nodes[best].Self().Position())) < 0) {
				best = i
			}
		}
		return best
	}
	talk(5 * time.Second)
	for range 4 {
		r.Kill(nearest(recs[0].Key()))
		r.Kill(nearest(recs[1].Key()))
		talk(5 * time.Second)
	}
	// The first process moves: the old node stays and forwards.
	next := r.record(0, 3, 1, 2)
	if _, err := r.swap(1, 1, next); err != nil {
		t.Fatal(err)
	}
	r.services[1].Host(recs[0].Key(), nil)
	r.services[1].Release(recs[0].Key())
	procs[0].start(3)
	talk(5 * time.Second)
	// Its node dies; it is revived from what it had.
	r.Kill(3)
	last := r.record(0, 4, 1, 3)
	if _, err := r.swap(0, 2, last); err != nil {
		t.Fatal(err)
	}
	procs[0].start(4)
	talk(10 * time.Second)

	r.Loss = 0
	r.Run(time.Minute)
	for i, p := range procs {
		if want := procs[1-i].sent; uint64(len(p.got)) != want || want < 200 {
			t.Errorf("process %d got %d messages of %d", i, len(p.got), want)
		}
		for n, v := range p.got {
			if v != uint64(n) {
				t.Fatalf("process %d: message %d is number %d", i, n, v)
			}
		}
	}
	t.Logf("%d and %d messages, %d and %d frames again", procs[0].sent, procs[1].sent, procs[0].sender.Repeated(), procs[1].sender.Repeated())
}

package swim_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/swim"
)

// rumour builds a message with one rumour, as docs/routing-protocol.md,
// section 8, describes it.
func rumour(about routing.PeerID, accuser *routing.PeerID, number uint64, leaving byte, signature [64]byte) []byte {
	b := append([]byte{1, 5}, make([]byte, 8+73+32)...)
	b = append(b, 1)
	accused := byte(0)
	if accuser != nil {
		accused = 1
	}
	b = append(append(b, accused), about[:]...)
	b = binary.BigEndian.AppendUint64(b, number)
	b = append(append(b, leaving), signature[:]...)
	if accuser != nil {
		b = append(b, accuser[:]...)
	}
	return b
}

// A member says false things about others: nobody is removed, nobody who died
// is kept, and nobody is made to leave.
func TestLiarRemovesNobodyAndKeepsNobody(t *testing.T) {
	for _, tt := range []struct {
		name string
		lie  func(g *group, about *routing.Member, liar routing.PeerID) []byte
	}{
		{"accuses everybody", func(g *group, about *routing.Member, liar routing.PeerID) []byte {
			return rumour(about.Peer, &liar, uint64(g.Now().UnixMilli()), 0, [64]byte{})
		}},
		{"accuses everybody of what comes", func(g *group, about *routing.Member, liar routing.PeerID) []byte {
			return rumour(about.Peer, &liar, 1<<63, 0, [64]byte{1})
		}},
		{"says that everybody leaves", func(g *group, about *routing.Member, liar routing.PeerID) []byte {
			return rumour(about.Peer, nil, 1<<62, 1, [64]byte{2})
		}},
		{"says that everybody lives", func(g *group, about *routing.Member, liar routing.PeerID) []byte {
			return rumour(about.Peer, nil, uint64(g.Now().UnixMilli())+1000, 0, [64]byte{3})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGroup(t, 3, 12)
			const liar, dead = 0, 5
			var lie func()
			lie = func() {
				for to := 1; to < 12; to++ {
					for about := 1; about < 12; about++ {
						if about != to {
							g.World.Send(liar, to, tt.lie(g, g.members[about], g.members[liar].Peer))
						}
					}
				}
				g.After(time.Second, lie)
			}
			g.After(5*time.Second, lie)
			g.Run(2 * time.Minute)
			if removed, left := g.count(swim.Removed, -1), g.count(swim.Left, -1); removed+left != 0 {
				t.Errorf("removed %d and left %d, want nobody", removed, left)
			}
			g.Kill(dead)
			g.Run(90 * time.Second)
			if got := g.count(swim.Removed, dead); got != 11 {
				t.Errorf("the dead one was removed by %d, want 11", got)
			}
			if got := g.count(swim.Removed, -1); got != 11 {
				t.Errorf("removed %d in all", got)
			}
		})
	}
}

// A member that says farewell is gone at once, everywhere.
func TestFarewell(t *testing.T) {
	g := newGroup(t, 4, 30)
	g.Run(10 * time.Second)
	at := g.Elapsed()
	g.detectors[3].Leave(g.Now())
	g.Touch(3)
	g.Run(20 * time.Second)
	if got := g.count(swim.Left, 3); got != 29 {
		t.Errorf("%d of 29 know that it left", got)
	}
	if one, all := g.first(swim.Left, 3, at); all > 5*time.Second {
		t.Errorf("known to the first after %v, to all after %v", one, all)
	}
	if got := g.count(swim.Suspected, -1); got != 0 {
		t.Errorf("%d suspicions", got)
	}
}

func TestGarbageAndStrangers(t *testing.T) {
	g := newGroup(t, 5, 3)
	d := g.detectors[0]
	d.Receive(g.Now(), g.members[1].Peer, []byte("garbage"))
	d.Receive(g.Now(), routing.PeerID{77}, rumour(g.members[1].Peer, nil, 1, 0, [64]byte{}))
	if c := d.Counters(); c.Malformed != 1 || c.Strangers != 1 || c.Sent != 0 {
		t.Errorf("counters = %+v", c)
	}
}

func TestMembersAreBounded(t *testing.T) {
	m := func(i int) *routing.Member { return routing.NewMember(routing.PeerID{byte(i)}, routing.Nonce{}, nil) }
	d, err := swim.New(swim.Config{
		Self: m(0), Messenger: carrier{}, MaxMembers: 2,
		Sign:   func([]byte) [64]byte { return [64]byte{} },
		Verify: func(*routing.Member, []byte, [64]byte) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, want := range []error{nil, nil, swim.ErrFull} {
		if got := d.Add(now, m(i+1)); got != want {
			t.Errorf("Add %d = %v, want %v", i+1, got, want)
		}
	}
	d.Drop(m(1).Peer)
	if err := d.Add(now, m(3)); err != nil || d.Len() != 2 {
		t.Errorf("after one was dropped: %v, %d members", err, d.Len())
	}
}

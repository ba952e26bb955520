package routing_test

import (
	"errors"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// What cannot be sent ends at once, in the order in which it was asked, and a
// request that the first callback makes is not ended with the others.
func TestUnreachable(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var sent []*routing.Member
	member := func(i byte) *routing.Member {
		return routing.NewMember(routing.PeerID{i}, routing.Nonce{}, nil)
	}
	n, err := routing.New(routing.Config{
		Self:      member(1),
		Messenger: record{&sent},
		Verify:    func(*routing.Member) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var ended []string
	ask := func(name string, to *routing.Member, then func()) {
		n.Ask(now, to, 200, nil, func(_ time.Time, _ []byte, err error) {
			if !errors.Is(err, routing.ErrUnreachable) {
				t.Errorf("%s: %v", name, err)
			}
			ended = append(ended, name)
			then()
		})
	}
	nothing := func() {}
	ask("first", member(2), func() { ask("again", member(2), nothing) })
	ask("other", member(3), nothing)
	ask("second", member(2), nothing)
	n.Unreachable(now, member(2).Peer)
	if len(ended) != 2 || ended[0] != "first" || ended[1] != "second" {
		t.Errorf("ended = %v, want first and second", ended)
	}
	if got := n.Counters().Unreachable; got != 2 || len(sent) != 4 {
		t.Errorf("unreachable = %d, sent %d; want 2 and 4", got, len(sent))
	}
}

type record struct{ sent *[]*routing.Member }

func (r record) Send(to *routing.Member, _ []byte) { *r.sent = append(*r.sent, to) }

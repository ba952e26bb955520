package routing_test

import (
	"fmt"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// A wire carries messages between nodes of one process.
type wire struct {
	self  *routing.Member
	nodes map[routing.PeerID]*routing.Node
	queue *[]func(now time.Time)
}

func (w wire) Send(to *routing.Member, msg []byte) {
	*w.queue = append(*w.queue, func(now time.Time) { w.nodes[to.Peer].Receive(now, w.self, msg) })
}

// Three nodes find each other: the second and the third know the first alone.
func Example() {
	var queue []func(now time.Time)
	nodes := make(map[routing.PeerID]*routing.Node)
	var members []*routing.Member
	for i := range 3 {
		m := routing.NewMember(routing.PeerID{byte(i)}, routing.Nonce{}, nil)
		node, err := routing.New(routing.Config{
			Self:      m,
			Messenger: wire{m, nodes, &queue},
			Verify:    func(*routing.Member) error { return nil }, // a real one asks the ledger's signature
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		nodes[m.Peer] = node
		members = append(members, m)
	}
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	deliver := func() {
		for len(queue) > 0 {
			next := queue[0]
			queue = queue[1:]
			next(now)
		}
	}
	for _, m := range members[1:] {
		nodes[m.Peer].Bootstrap(now, members[:1], func(_ time.Time, err error) {
			if err != nil {
				fmt.Println(err)
			}
		})
		deliver()
	}

	target := members[2]
	nodes[members[1].Peer].Lookup(now, target.Position(), func(_ time.Time, r routing.Result) {
		fmt.Println("found it:", r.Closest[0].Peer == target.Peer)
	})
	deliver()
	// Output: found it: true
}

package overlay

import (
	"context"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Kinds of event.
const (
	EventRendezvousUp   = "rendezvous-up"
	EventRendezvousDown = "rendezvous-down"
	EventPeerUp         = "peer-up"
	EventPeerDown       = "peer-down"
	EventPath           = "path" // another path counts, or for another reason
	EventGrid           = "grid" // the revocation list: a newer one, or one that nobody confirms
)

// An Event is something that happened to a node.
type Event struct {
	Time   time.Time   `json:"time"`
	Kind   string      `json:"kind"`
	Peer   ri2n.PeerID `json:"peer,omitzero"`
	Path   *PathStatus `json:"path,omitempty"`
	Detail string      `json:"detail,omitempty"`
}

// maxEvents is how many events wait for one reader.
const maxEvents = 64

func (n *Node) emit(e Event) {
	e.Time = time.Now()
	n.counters.eventsDropped.Add(uint64(n.events.emit(e)))
}

// Events delivers what happens (peer up and down, path changed, rendezvous up
// and down) until ctx or the node ends, and then closes the channel. At most
// 64 events wait; the oldest are dropped.
func (n *Node) Events(ctx context.Context) <-chan Event {
	c, end := n.events.subscribe()
	context.AfterFunc(ctx, end)
	return c
}

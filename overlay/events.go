package overlay

import (
	"context"
	"sync"
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

// An eventHub passes events to those who listen. The zero value has nobody.
type eventHub struct {
	mu      sync.Mutex // guards what follows, and sends
	closed  bool
	readers map[chan Event]struct{}
}

func (h *eventHub) emit(e Event) (dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.readers {
		for {
			select {
			case c <- e:
			default:
				// The reader is slow: the oldest event goes.
				select {
				case <-c:
					dropped++
				default:
				}
				continue
			}
			break
		}
	}
	return dropped
}

// subscribe returns a channel of events, and what ends it.
func (h *eventHub) subscribe() (c chan Event, end func()) {
	c = make(chan Event, maxEvents)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(c)
		return c, func() {}
	}
	if h.readers == nil {
		h.readers = make(map[chan Event]struct{})
	}
	h.readers[c] = struct{}{}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, here := h.readers[c]; here {
			delete(h.readers, c)
			close(c)
		}
	}
}

func (h *eventHub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.readers {
		close(c)
	}
	h.readers = nil
}

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

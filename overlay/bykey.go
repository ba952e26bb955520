package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
	"github.com/instantgrid/instantgrid/routing"
)

// ErrNoRouting reports that the node takes no part in key-based routing: it
// belongs to no grid, or RoutingConfig.Off is set. An allow list is no grid: it says
// whom this node lets in, and nobody else could verify that.
var ErrNoRouting = errors.New("overlay: this node takes no part in routing: it belongs to no grid (an allow list is none: others could not verify it), or routing is off")

// A Key is a point of the key space, in which members have positions that they
// cannot choose.
type Key = routing.Key

// A Service tells messages of different programs apart. Those from
// [FirstService] on are free for programs.
type Service = routing.Service

// FirstService is the first service that is free for programs.
const FirstService Service = 128

// MaxRouted is the largest message of [Node.Route] in bytes.
const MaxRouted = routing.MaxPayload

// A Contact is a member as routing knows it.
type Contact struct {
	Peer     ri2n.PeerID `json:"peer"`
	Name     string      `json:"name"` // as the ledger has signed it
	Position Key         `json:"position"`
}

func contactOf(m *routing.Member) Contact {
	c := Contact{Peer: ri2n.PeerID(m.Peer), Position: m.Position()}
	if rec, err := membership.ParseRecord(m.Proof); err == nil {
		c.Name = rec.Name
	}
	return c
}

// A LookupError is a key for which nobody could be asked.
type LookupError struct {
	Key Key
	Err error
}

func (e *LookupError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }
func (e *LookupError) Unwrap() error { return e.Err }

// Object names the key.
func (e *LookupError) Object() string { return "key " + e.Key.String() }

// Cause says why nobody answers for it.
func (e *LookupError) Cause() string {
	switch {
	case errors.Is(e.Err, routing.ErrAlone):
		return "no other member of the grid can be reached now"
	case errors.Is(e.Err, routing.ErrBusy):
		return "this node has too many lookups under way"
	case errors.Is(e.Err, routing.ErrTimeout):
		return "the members asked do not answer"
	}
	return fmt.Sprint(e.Err)
}

// Next says what to do.
func (e *LookupError) Next() string {
	if errors.Is(e.Err, routing.ErrBusy) {
		return "try again in a moment"
	}
	return "see who is connected: grid status"
}

// A LookupResult is what a lookup found.
type LookupResult struct {
	Key     Key       `json:"key"`
	Closest []Contact `json:"closest"` // the nearest first; this node may be among them
	Hops    int       `json:"hops"`    // how many answered one after another until the nearest was known
	Asked   int       `json:"asked"`   // requests

	// Crowded: more members are near the key than chance puts there. Beyond are
	// those outside the crowd.
	Crowded bool      `json:"crowded"`
	Beyond  []Contact `json:"beyond,omitempty"`
}

// Lookup finds the members whose positions are nearest to key, by asking
// members nearer and nearer to it over three disjoint paths. All of them have
// answered. The error is a [*LookupError], [ErrNoRouting], [ErrClosed] or
// ctx's.
func (n *Node) Lookup(ctx context.Context, key Key) (LookupResult, error) {
	result := make(chan routing.Result, 1)
	if err := n.router.do(ctx, func(now time.Time) {
		n.router.routing.Lookup(now, key, func(_ time.Time, f routing.Result) { result <- f })
	}); err != nil {
		return LookupResult{}, err
	}
	select {
	case r := <-result:
		f := LookupResult{Key: key, Closest: []Contact{}, Hops: r.Hops, Asked: r.Asked, Crowded: r.Crowded}
		for _, m := range r.Closest {
			f.Closest = append(f.Closest, contactOf(m))
		}
		for _, m := range r.Beyond {
			f.Beyond = append(f.Beyond, contactOf(m))
		}
		if r.Err != nil && len(f.Closest) == 0 {
			return f, &LookupError{key, r.Err}
		}
		f.include(n.router.self())
		return f, nil
	case <-n.ctx.Done():
		return LookupResult{}, ErrClosed
	case <-ctx.Done():
		return LookupResult{}, ctx.Err()
	}
}

// include puts this node, which asks itself nothing, in its place.
func (f *LookupResult) include(self Contact) {
	distance := f.Key.Xor(self.Position)
	for i, c := range f.Closest {
		if distance.Compare(f.Key.Xor(c.Position)) < 0 {
			f.Closest = slices.Insert(f.Closest, i, self)
			f.Closest = f.Closest[:min(len(f.Closest), maxClosest)]
			return
		}
	}
	if len(f.Closest) < maxClosest {
		f.Closest = append(f.Closest, self)
	}
}

// maxClosest is how many members a lookup finds.
const maxClosest = 20

// self returns this node as a contact.
func (r *router) self() Contact { return r.seen.Load().Self }

// Closest returns the count members nearest to key, the nearest first; this
// node may be among them. See [Node.Lookup].
func (n *Node) Closest(ctx context.Context, key Key, count int) ([]Contact, error) {
	f, err := n.Lookup(ctx, key)
	if err != nil {
		return nil, err
	}
	return f.Closest[:min(len(f.Closest), max(count, 0))], nil
}

// A Message has arrived at the member nearest to its key.
type Message struct {
	Key     Key
	From    ri2n.PeerID // the member that sent it, as those who passed it on say
	Hops    int         // how many members passed it on; zero: it is our own
	Payload []byte      // the handler's
}

// Route sends payload, which is copied, to the member nearest to key, which may
// be this one: from member to member, each nearer than the one before. Each hop
// is acknowledged and tried again elsewhere, but the last member may die with
// the message; who needs more uses a [Mailbox]. Route returns when the message
// is on its way. It has at most [MaxRouted] bytes.
func (n *Node) Route(ctx context.Context, key Key, s Service, payload []byte) error {
	if err := checkService(s); err != nil {
		return err
	}
	if len(payload) > MaxRouted {
		return fmt.Errorf("overlay: a routed message of %d bytes; at most %d", len(payload), MaxRouted)
	}
	done := make(chan struct{})
	if err := n.router.do(ctx, func(now time.Time) {
		n.router.routing.Route(now, key, s, payload)
		close(done)
	}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-n.ctx.Done():
		return ErrClosed
	}
}

func checkService(s Service) error {
	if s < FirstService {
		return fmt.Errorf("overlay: service %d is not for programs; those from %d on are", s, FirstService)
	}
	return nil
}

// maxHandled is how many messages wait for one handler; more are dropped.
const maxHandled = 256

// Handle has f called for each message of service s that is routed to a key to
// which this node is nearest, one after another, until stop is called or the
// node ends. At most 256 wait; more are dropped and counted. f may call the node.
func (n *Node) Handle(s Service, f func(Message)) (stop func(), err error) {
	if err := checkService(s); err != nil {
		return nil, err
	}
	if n.router == nil {
		return nil, ErrNoRouting
	}
	queue, ended := make(chan Message, maxHandled), make(chan struct{})
	if !n.spawn(func() {
		for {
			select {
			case m := <-queue:
				f(m)
			case <-ended:
				return
			case <-n.ctx.Done():
				return
			}
		}
	}) {
		return nil, ErrClosed
	}
	set := func(h routing.Handler) error {
		return n.router.do(n.ctx, func(time.Time) { n.router.routing.Handle(s, h) })
	}
	err = set(routing.Handler{Deliver: func(_ time.Time, d routing.Delivery) {
		m := Message{Key: d.Key, From: ri2n.PeerID(d.Origin.Peer), Hops: d.Hops, Payload: d.Payload}
		select {
		case queue <- m:
		default:
			n.router.dropped.Add(1)
		}
	}})
	var once sync.Once
	return func() {
		once.Do(func() {
			_ = set(routing.Handler{}) // it fails when the node has ended
			close(ended)
		})
	}, err
}

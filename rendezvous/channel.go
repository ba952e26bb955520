package rendezvous

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// sleepTime is how long a channel waits to be opened again: as long as
	// ri2n keeps a failed path.
	sleepTime  = 60 * time.Second
	retryFirst = 250 * time.Millisecond
	retryCap   = 2 * time.Second
	// never marks a channel that opens again with its next datagram only.
	never = time.Duration(-1)
	// maxEarly bounds the packets that arrive before Attach.
	maxEarly = 8
)

// A Channel carries datagrams to and from one peer through the rendezvous. It
// is a [ri2n.Carrier]; its methods may be called concurrently and do not block.
//
// A channel that has worked outlives the session with the rendezvous: it sleeps
// for up to a minute and is opened again. What is sent meanwhile is dropped.
type Channel struct {
	client *Client
	peer   ri2n.PeerID
	key    uint64
	own    bool // we opened it
	done   chan struct{}
	size   atomic.Int32

	// The client's mutex guards what follows.
	err         error // set once, when the channel is over
	wire        *uplink
	number      uint64 // on wire
	generation  uint64
	established bool // something has come back
	announced   bool // OnChannel has seen it
	deliver     func([]byte)
	shown       func(netip.AddrPort)
	early       [][]byte
	asleep      time.Time     // since when there is no wire
	retry       time.Time     // when to open again; zero: with the next datagram
	retries     time.Duration // the last pause
}

var _ ri2n.BurstCarrier = (*Channel)(nil)

func newChannel(c *Client, peer ri2n.PeerID, key uint64, own bool) *Channel {
	ch := &Channel{client: c, peer: peer, key: key, own: own, done: make(chan struct{})}
	ch.size.Store(protocol.MinRelayed)
	return ch
}

// OpenChannel opens a channel to peer. It returns at once, and datagrams may
// be sent at once: they travel together with the request, and the rendezvous
// holds the first eight for a second. While the client is not registered the
// channel waits for that, and drops what is sent.
//
// A refusal ends the channel, and so does a minute without the rendezvous; see
// [Channel.Done].
func (c *Client) OpenChannel(peer ri2n.PeerID) (*Channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	ch := newChannel(c, peer, rand.Uint64(), true)
	c.channels[ch] = struct{}{}
	if c.up != nil {
		ch.open(c.up)
	} else {
		ch.asleep = time.Now()
	}
	return ch, nil
}

// Peer returns whom the channel leads to.
func (ch *Channel) Peer() ri2n.PeerID { return ch.peer }

// IsIncoming reports whether the peer opened the channel.
func (ch *Channel) IsIncoming() bool { return !ch.own }

// String names the channel in logs.
func (ch *Channel) String() string { return "relay:" + ch.peer.Short() }

// Attach has every packet that arrives given to deliver, also those that came
// before, of which at most eight are kept. Deliver is called on a goroutine of
// the client, must not block, and may change the packet but not keep it.
// [ri2n.Link.Deliver] fits.
func (ch *Channel) Attach(deliver func([]byte)) {
	ch.client.mu.Lock()
	ch.deliver = deliver
	early := ch.early
	ch.early = nil
	ch.client.mu.Unlock()
	if deliver == nil {
		return
	}
	for _, packet := range early {
		deliver(packet)
	}
}

// Show asks the rendezvous to tell the peer where it sees us, which proves that
// address to the peer. A rendezvous that knows no such question does nothing.
// The error is [ErrNotRegistered], or why the channel is over.
func (ch *Channel) Show() error {
	c := ch.client
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case ch.err != nil:
		return ch.err
	case ch.wire == nil:
		return ErrNotRegistered
	}
	ch.wire.send(protocol.Show{Channel: ch.number})
	return nil
}

// OnShown has f called with the address at which the rendezvous sees the peer,
// each time that the peer asks for it. f is called on a goroutine of the client
// and must not block.
func (ch *Channel) OnShown(f func(netip.AddrPort)) {
	ch.client.mu.Lock()
	defer ch.client.mu.Unlock()
	ch.shown = f
}

// Done is closed when the channel is over; Err then says why.
func (ch *Channel) Done() <-chan struct{} { return ch.done }

// Err returns nil while the channel lives. Afterwards it is [ErrClosed] if our
// side closed it, a [*RefusedError], which is [ErrPeerUnknown] when the peer is
// not registered, or what keeps us from the rendezvous.
func (ch *Channel) Err() error {
	ch.client.mu.Lock()
	defer ch.client.mu.Unlock()
	return ch.err
}

// MaxDatagram returns the largest packet that Send takes now, in bytes; never
// below 1000.
func (ch *Channel) MaxDatagram() int {
	c := ch.client
	c.mu.Lock()
	u, number := ch.wire, ch.number
	c.mu.Unlock()
	size := int(ch.size.Load())
	if u == nil {
		return size
	}
	// The rendezvous knows what it can send us, and we what we can send it.
	return min(size, protocol.Relayed(u.session.MaxDatagramSize(), number))
}

func (ch *Channel) resize(size uint16) {
	ch.size.Store(int32(max(int(size), protocol.MinRelayed)))
}

// A flight is the memory for datagrams that leave together; SendDatagrams copies
// them.
type flight struct {
	b    []byte
	list [][]byte
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// Send passes one packet on. The error says why it was dropped: the channel is
// over, [ErrNotRegistered], or the packet is larger than MaxDatagram.
func (ch *Channel) Send(b []byte) error { return ch.SendBurst([][]byte{b}) }

// SendBurst is Send for several packets, which leave together. Those that are
// too large are dropped alone.
func (ch *Channel) SendBurst(packets [][]byte) (err error) {
	c := ch.client
	c.mu.Lock()
	if ch.err != nil {
		defer c.mu.Unlock()
		return ch.err
	}
	if ch.wire == nil && ch.own && c.up != nil && ch.retry.IsZero() {
		ch.open(c.up)
	}
	u, number := ch.wire, ch.number
	if u == nil {
		c.mu.Unlock()
		return ErrNotRegistered
	}
	if now := time.Now(); now.UnixNano()-u.heard.Load() > int64(silenceTime) && u.asked.IsZero() && !u.probe {
		u.probe = true
		defer c.wake()
	}
	c.mu.Unlock()
	f := flights.Get().(*flight)
	defer flights.Put(f)
	f.b, f.list = f.b[:0], f.list[:0]
	size := int(ch.size.Load())
	for _, b := range packets {
		if len(b) == 0 || len(b) > size {
			err = fmt.Errorf("rendezvous: packet of %d bytes, the channel takes %d", len(b), size)
			continue
		}
		start := len(f.b)
		f.b = protocol.AppendFrame(append(f.b, c.cfg.Header...), number, b)
		f.list = append(f.list, f.b[start:len(f.b):len(f.b)]) // stays valid when f.b moves
	}
	if len(f.list) > 0 {
		if _, e := u.session.SendDatagrams(number, f.list); e != nil {
			err = e
		}
	}
	return err
}

// Close ends the channel and tells the peer. It may be called twice.
func (ch *Channel) Close() error {
	c := ch.client
	c.mu.Lock()
	if ch.wire != nil {
		ch.wire.send(protocol.Closed{Channel: ch.number, Reason: ReasonClosed})
		delete(ch.wire.wires, ch.number)
	}
	first := ch.finish(ErrClosed)
	c.mu.Unlock()
	if first {
		close(ch.done)
	}
	return nil
}

// The methods below run under the client's mutex.

// open asks for the channel on u, under a new generation.
func (ch *Channel) open(u *uplink) {
	number := u.nextOwn
	u.nextOwn += 2
	ch.bind(u, number, ch.generation+1)
	u.send(protocol.Open{Channel: number, Key: ch.key, Generation: ch.generation, Target: ch.peer})
}

func (ch *Channel) bind(u *uplink, number, generation uint64) {
	ch.wire, ch.number, ch.generation = u, number, generation
	ch.asleep, ch.retry = time.Time{}, time.Time{}
	// Until the server names a size, only the least one is sure to pass.
	ch.size.Store(protocol.MinRelayed)
	u.wires[number] = ch
}

// arrived takes a packet in and returns whom to give it to, if anybody yet.
func (ch *Channel) arrived(packet []byte) func([]byte) {
	ch.established = true
	ch.retries = 0
	ch.asleep = time.Time{}
	if ch.deliver == nil {
		if len(ch.early) < maxEarly {
			ch.early = append(ch.early, bytes.Clone(packet))
		} else {
			ch.client.drops++
		}
	}
	return ch.deliver
}

// sleep leaves the channel without a wire, to be opened again after pause.
func (ch *Channel) sleep(now time.Time, pause time.Duration) {
	if ch.err != nil {
		return
	}
	ch.wire = nil
	if ch.asleep.IsZero() {
		ch.asleep = now
	}
	ch.retry = time.Time{}
	if pause != never {
		ch.retry = now.Add(pause)
	}
}

// nextRetry returns the pause before the channel is opened again.
func (ch *Channel) nextRetry() time.Duration {
	ch.retries = min(max(2*ch.retries, retryFirst), retryCap)
	return ch.retries
}

// advance opens the channel again when it is time, or gives it up. It returns
// when to look again; zero means that nothing is due.
func (ch *Channel) advance(now time.Time, u *uplink) (next time.Time, over bool) {
	if ch.err != nil || ch.wire != nil {
		return time.Time{}, false
	}
	end := ch.asleep.Add(sleepTime)
	if !now.Before(end) {
		return time.Time{}, ch.finish(ch.client.refusal(ch, ReasonPeerGone))
	}
	if ch.own && !ch.retry.IsZero() {
		if !now.Before(ch.retry) {
			since := ch.asleep
			ch.open(u)
			ch.asleep = since // until something comes back
			return time.Time{}, false
		}
		return ch.retry, false
	}
	return end, false
}

// finish ends the channel with err and reports whether that was news. The
// caller closes done after releasing the lock.
func (ch *Channel) finish(err error) bool {
	if ch.err != nil {
		return false
	}
	ch.err = err
	ch.wire = nil
	ch.early = nil
	delete(ch.client.channels, ch)
	if !ch.own {
		delete(ch.client.incoming, incomingKey{ch.peer, ch.key})
	}
	return true
}

package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// software is what we call ourselves in HELLO.
const software = "instantgrid"

const (
	// replyTime is how long the server may take for an answer before the
	// session counts as lost: three lost packets and their repetitions.
	replyTime = 3 * time.Second
	// replyPatience is how many times as long it may take while other things
	// arrive: the question may wait for a path that has died, and a server that
	// relays for us is alive.
	replyPatience = 4
	// silenceTime is how long nothing may come back while we send before the
	// session must prove that it is alive.
	silenceTime = 2 * time.Second
	// outboxLen bounds the messages that wait for the control stream.
	outboxLen = 512
	// maxIncoming bounds the channels that others have open toward us, and
	// maxFromOne those of one peer, so that few cannot take all places.
	maxIncoming = 256
	maxFromOne  = 16
	// maxRequests bounds the questions without an answer yet.
	maxRequests = 256
)

// maxAnswer bounds an answer of the ledger, in bytes.
const maxAnswer = 256 << 10

// An uplink is one registered session. Save for the first group, the client's
// mutex guards it.
type uplink struct {
	client  *Client
	session Session
	control net.Conn
	out     chan protocol.Message
	lost    chan struct{} // closed when the session is over
	heard   atomic.Int64  // when anything last came, in nanoseconds of the Unix epoch

	sequence   uint32
	asked      time.Time // when the outstanding REGISTER left; zero: none
	refresh    time.Time // when the next one is due
	probe      bool      // one is wanted now
	rtt        time.Duration
	failure    error
	wires      map[uint64]*Channel
	nextOwn    uint64
	seen       uint64 // highest number of an incoming channel
	hold       protocol.Hold
	requests   map[uint32]chan error
	lastAnswer uint32
	questions  map[uint32]chan []byte // to the ledger
	collector  protocol.Collector     // of the answer that is arriving
}

// connect makes a session and registers on it.
func (c *Client) connect(ctx context.Context) (*uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	sess, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	u, err := c.register(ctx, sess)
	if err == nil {
		return u, nil
	}
	// What ended the session says more than the read that it broke off.
	select {
	case <-sess.Done():
		if sess.Err() != nil {
			err = sess.Err()
		}
	default:
		sess.CloseWithError(protocol.ReasonNone.CloseCode(), "registration failed")
	}
	return nil, err
}

// register says HELLO, shows the key of a token if there is one, and registers:
// all in one flight.
func (c *Client) register(ctx context.Context, sess Session) (*uplink, error) {
	control, err := sess.OpenControl(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := control.SetDeadline(deadline); err != nil {
		return nil, err
	}
	u := &uplink{
		client:   c,
		session:  sess,
		control:  control,
		out:      make(chan protocol.Message, outboxLen),
		lost:     make(chan struct{}),
		wires:    make(map[uint64]*Channel),
		requests: make(map[uint32]chan error),

		questions: make(map[uint32]chan []byte),
	}
	flight := protocol.Append(nil, protocol.Hello{Version: protocol.Version, Software: software})
	c.mu.Lock()
	key := c.admitKey
	c.mu.Unlock()
	if key != nil {
		flight = protocol.Append(flight, protocol.Admit{Request: u.newRequest(nil), Key: *key})
	}
	u.sequence = 1
	flight = protocol.Append(flight, protocol.Register{Sequence: u.sequence})
	// A context that ends must not wait for the deadline.
	unblock := context.AfterFunc(ctx, func() { control.SetDeadline(time.Unix(1, 0)) })
	defer unblock()
	asked := time.Now()
	if _, err := control.Write(flight); err != nil {
		return nil, err
	}
	for {
		m, err := protocol.Read(control)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, err
		}
		switch m := m.(type) {
		case protocol.Hello:
			if m.Version != protocol.Version {
				return nil, &RefusedError{Server: c.cfg.Server, Self: c.self, Reason: ReasonVersion}
			}
		case protocol.Error:
			return nil, &RefusedError{Server: c.cfg.Server, Self: c.self, Reason: m.Reason, Text: m.Text}
		case protocol.OK, protocol.Unknown:
		case protocol.Time:
			c.mu.Lock()
			c.noteClock(time.Now(), m.Now)
			c.mu.Unlock()
		case protocol.Registered:
			if !unblock() {
				return nil, ctx.Err()
			}
			if err := control.SetDeadline(time.Time{}); err != nil {
				return nil, err
			}
			now := time.Now()
			u.registered(now, m, now.Sub(asked))
			return u, nil
		default:
			return nil, fmt.Errorf("%w: %T before REGISTERED", protocol.ErrMalformed, m)
		}
	}
}

// registered notes an answer to REGISTER. It runs on the loop, or before it.
func (u *uplink) registered(now time.Time, m protocol.Registered, rtt time.Duration) {
	c := u.client
	u.heard.Store(now.UnixNano())
	var stun []netip.AddrPort
	server := u.session.Remote()
	for _, port := range []uint16{m.STUN, m.AlternateSTUN} {
		if port != 0 && server.IsValid() {
			stun = append(stun, netip.AddrPortFrom(server.Addr(), port))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u.rtt = rtt
	u.asked = time.Time{}
	u.refresh = now.Add(jitter(c.random, max(m.Lifetime, 3*time.Second)/3, 0.1))
	c.setStatus(func(s *Status) {
		if !s.Registered {
			s.Registered = true
			s.Since = now
		}
		s.RTT, s.Observed, s.STUN = rtt, m.Observed, stun
		s.Attempts, s.LastError = 0, nil
	})
}

// noteClock compares our clock with the server's. It is called with the lock
// held. What is within a second is not told anew.
func (c *Client) noteClock(now, theirs time.Time) {
	offset := theirs.Sub(now)
	if (offset - c.status.ClockOffset).Abs() >= time.Second {
		c.setStatus(func(s *Status) { s.ClockOffset = offset })
	}
}

// serve runs a registered session to its end and returns why it ended.
func (c *Client) serve(ctx context.Context, u *uplink) error {
	events := make(chan protocol.Message)
	var running sync.WaitGroup
	inner, cancel := context.WithCancel(ctx)
	running.Go(func() { u.readControl(inner, events) })
	running.Go(func() { u.session.Datagrams(inner, u.datagrams) })
	running.Go(func() { u.write() })
	c.begin(u)
	err := u.loop(ctx, events)
	c.finish(u)
	cancel()
	reason := protocol.ReasonNone
	if errors.Is(err, protocol.ErrMalformed) {
		reason = protocol.ReasonProtocol
	}
	u.control.SetDeadline(time.Unix(1, 0))
	u.session.CloseWithError(reason.CloseCode(), reason.String())
	running.Wait()
	return err
}

// begin makes u the session that channels use.
func (c *Client) begin(u *uplink) {
	now := time.Now()
	c.mu.Lock()
	c.up = u
	c.hurry = false
	for digest, expiry := range c.deposits {
		if !now.Before(expiry) {
			delete(c.deposits, digest)
			continue
		}
		u.send(protocol.Deposit{Request: u.newRequest(nil), Digest: digest, Expiry: expiry})
	}
	for ch := range c.channels {
		if ch.own {
			ch.open(u)
		}
	}
	c.mu.Unlock()
	c.log.Info("registered", "observed", c.Status().Observed, "rtt", u.rtt)
}

// finish leaves the channels of u asleep until the next session.
func (c *Client) finish(u *uplink) {
	now := time.Now()
	c.mu.Lock()
	c.up = nil
	for _, ch := range u.wires {
		ch.sleep(now, 0)
	}
	clear(u.wires)
	close(u.lost)
	c.mu.Unlock()
}

// send queues m under the lock; it never blocks. A control stream that takes
// nothing more has failed.
func (u *uplink) send(m protocol.Message) {
	select {
	case u.out <- m:
	default:
		if u.failure == nil {
			u.failure = errors.New("the control stream is stuck")
		}
		u.client.wake()
	}
}

// newRequest returns a number for a question, under the lock. The answer goes
// to answer, which has room for it, or nowhere.
func (u *uplink) newRequest(answer chan error) uint32 {
	u.lastAnswer++
	if answer != nil && len(u.requests) < maxRequests {
		u.requests[u.lastAnswer] = answer
	}
	return u.lastAnswer
}

func (u *uplink) write() {
	var b []byte
	for {
		select {
		case m := <-u.out:
			b = protocol.Append(b[:0], m)
		case <-u.lost:
			return
		}
		for more := true; more && len(b) < 4096; {
			select {
			case m := <-u.out:
				b = protocol.Append(b, m)
			default:
				more = false
			}
		}
		if _, err := u.control.Write(b); err != nil {
			return // the reader notices as well
		}
	}
}

// readControl passes the server's messages to the loop. It closes events when
// the stream ends, having noted why.
func (u *uplink) readControl(ctx context.Context, events chan<- protocol.Message) {
	defer close(events)
	for {
		m, err := protocol.Read(u.control)
		if err != nil {
			u.client.mu.Lock()
			if u.failure == nil {
				u.failure = err
			}
			u.client.mu.Unlock()
			return
		}
		u.heard.Store(time.Now().UnixNano())
		select {
		case events <- m:
		case <-ctx.Done():
			return
		}
	}
}

// datagrams hands relayed packets to their channels.
func (u *uplink) datagrams(list [][]byte) {
	for _, b := range list {
		u.datagram(b)
	}
}

// datagram hands a relayed packet to its channel.
func (u *uplink) datagram(b []byte) {
	c := u.client
	now := time.Now()
	u.heard.Store(now.UnixNano())
	number, packet, err := protocol.ParseFrame(b)
	if err != nil {
		c.mu.Lock()
		c.drops++
		c.mu.Unlock()
		return
	}
	var deliver func([]byte)
	c.mu.Lock()
	switch ch := u.wires[number]; {
	case ch != nil:
		deliver = ch.arrived(packet)
	case number%2 == 0 || number <= u.seen || !u.hold.Put(now, number, bytes.Clone(packet)):
		c.drops++
	}
	c.mu.Unlock()
	if deliver != nil {
		deliver(packet)
	}
}

// loop drives u until the session is lost.
func (u *uplink) loop(ctx context.Context, events <-chan protocol.Message) error {
	c := u.client
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-u.session.Done():
			return u.session.Err()
		case m, ok := <-events:
			if !ok {
				return u.why()
			}
			if r, is := m.(protocol.Registered); is {
				// Only the loop changes sequence and asked.
				if r.Sequence == u.sequence && !u.asked.IsZero() {
					now := time.Now()
					u.registered(now, r, now.Sub(u.asked))
				}
				break
			}
			if err := u.receive(time.Now(), m); err != nil {
				return err
			}
		case <-c.kick:
		case <-timer.C:
		}
		next, err := u.advance(time.Now())
		if err != nil {
			return err
		}
		timer.Reset(next)
	}
}

// why returns what ended the control stream; the session's own end says more.
func (u *uplink) why() error {
	timer := time.NewTimer(time.Second) // the close may still be under way
	defer timer.Stop()
	u.client.mu.Lock()
	err := u.failure
	u.client.mu.Unlock()
	if errors.Is(err, protocol.ErrMalformed) {
		return err
	}
	select {
	case <-u.session.Done():
		if u.session.Err() != nil {
			return u.session.Err()
		}
	case <-timer.C:
	}
	return err
}

// advance does what is due at now and returns how long nothing else will be.
func (u *uplink) advance(now time.Time) (time.Duration, error) {
	c := u.client
	var over []*Channel
	c.mu.Lock()
	err := u.failure
	next := u.refresh
	if u.asked.IsZero() && (u.probe || !now.Before(u.refresh)) {
		u.probe = false
		u.sequence++
		u.asked = now
		u.send(protocol.Register{Sequence: u.sequence})
	}
	if !u.asked.IsZero() {
		next = u.patience()
		if err == nil && !now.Before(next) {
			err = fmt.Errorf("the server has not answered for %v", now.Sub(u.asked))
		}
	}
	for ch := range c.channels {
		at, done := ch.advance(now, u)
		if done {
			over = append(over, ch)
		} else if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	c.mu.Unlock()
	for _, ch := range over {
		close(ch.done)
	}
	return max(next.Sub(now), 0), err
}

// patience returns when the server will have owed an answer for too long: replyTime
// after the last sign of life, and a few times as long after the question.
func (u *uplink) patience() time.Time {
	wait, asked := max(replyTime, 8*u.rtt), u.asked
	if heard := time.Unix(0, u.heard.Load()); heard.After(asked) {
		asked = heard
	}
	if most := u.asked.Add(replyPatience * wait); !asked.Add(wait).Before(most) {
		return most
	}
	return asked.Add(wait)
}

// receive handles a message of the server other than REGISTERED.
func (u *uplink) receive(now time.Time, m protocol.Message) error {
	c := u.client
	var after func()
	c.mu.Lock()
	defer func() {
		c.mu.Unlock()
		if after != nil {
			after()
		}
	}()
	end := func(ch *Channel, err error) {
		if ch.finish(err) {
			after = func() { close(ch.done) }
		}
	}
	switch m := m.(type) {
	case protocol.Time:
		c.noteClock(now, m.Now)
	case protocol.Opened:
		if ch := u.wires[m.Channel]; ch != nil {
			ch.resize(m.Size)
		}
	case protocol.MaxSize:
		if ch := u.wires[m.Channel]; ch != nil {
			ch.resize(m.Size)
		}
	case protocol.Shown:
		if ch := u.wires[m.Channel]; ch != nil && ch.shown != nil {
			shown, addr := ch.shown, m.Addr
			after = func() { shown(addr) }
		}
	case protocol.Refused:
		ch := u.wires[m.Channel]
		if ch == nil {
			return nil
		}
		delete(u.wires, m.Channel)
		if ch.established && passing(m.Reason) {
			ch.sleep(now, ch.nextRetry())
			return nil
		}
		end(ch, c.refusal(ch, m.Reason))
	case protocol.Closed:
		ch := u.wires[m.Channel]
		if ch == nil {
			return nil
		}
		delete(u.wires, m.Channel)
		switch {
		case m.Reason == ReasonIdle:
			ch.sleep(now, never)
		case passing(m.Reason):
			ch.sleep(now, ch.nextRetry())
		default:
			end(ch, c.refusal(ch, m.Reason))
		}
	case protocol.Incoming:
		after = u.incoming(now, m)
	case protocol.OK:
		u.answer(m.Request, nil)
	case protocol.Error:
		err := &RefusedError{Server: c.cfg.Server, Self: c.self, Reason: m.Reason, Text: m.Text}
		if m.Request == 0 {
			return err
		}
		u.answer(m.Request, err)
	case protocol.Answer:
		whole, done, err := u.collector.Add(m.Request, m.More, m.Data, maxAnswer)
		if err != nil {
			return err
		}
		if answer := u.questions[m.Request]; done && answer != nil {
			delete(u.questions, m.Request)
			answer <- whole // has room for the one answer
		}
	case protocol.Unknown:
	default:
		return fmt.Errorf("%w: %T out of place", protocol.ErrMalformed, m)
	}
	return nil
}

func (u *uplink) answer(request uint32, err error) {
	if answer := u.requests[request]; answer != nil {
		delete(u.requests, request)
		answer <- err // has room for the one answer
	}
}

// passing reports whether a channel that has worked may work again soon after
// it was refused or closed for r.
func passing(r Reason) bool {
	switch r {
	case ReasonUnknownPeer, ReasonPeerGone, ReasonBusy, ReasonSuperseded, ReasonShutdown,
		protocol.ReasonStale, protocol.ReasonNotRegistered:
		return true
	}
	return false
}

func (c *Client) refusal(ch *Channel, r Reason) error {
	return &RefusedError{Server: c.cfg.Server, Self: c.self, Peer: ch.peer, Reason: r}
}

// incoming takes in a channel of somebody else's and returns what to do after
// the lock is released.
func (u *uplink) incoming(now time.Time, m protocol.Incoming) func() {
	c := u.client
	if m.Channel%2 == 0 || m.Channel <= u.seen {
		return nil // the server repeats itself
	}
	u.seen = m.Channel
	waiting := u.hold.Take(now, m.Channel)
	id := incomingKey{m.Source, m.Key}
	ch := c.incoming[id]
	switch {
	case ch != nil && m.Generation <= ch.generation:
		return nil // a replay
	case ch != nil:
		// The same channel, opened again: whoever holds it need not know.
		delete(u.wires, ch.number)
		ch.bind(u, m.Channel, m.Generation)
	case c.cfg.OnChannel == nil || c.closed:
		u.send(protocol.Closed{Channel: m.Channel, Reason: ReasonNoConsent})
		return nil
	case len(c.incoming) >= maxIncoming, c.incomingFrom(m.Source) >= maxFromOne:
		u.send(protocol.Closed{Channel: m.Channel, Reason: ReasonBusy})
		return nil
	default:
		ch = newChannel(c, m.Source, m.Key, false)
		c.incoming[id] = ch
		c.channels[ch] = struct{}{}
		ch.bind(u, m.Channel, m.Generation)
	}
	ch.resize(m.Size)
	fresh := !ch.announced
	ch.announced = true
	var late []func()
	for _, packet := range waiting {
		if deliver := ch.arrived(packet); deliver != nil {
			late = append(late, func() { deliver(packet) })
		}
	}
	return func() {
		if fresh {
			c.cfg.OnChannel(ch)
		}
		for _, f := range late {
			f()
		}
	}
}

// incomingFrom counts the channels of one peer toward us, under the lock.
func (c *Client) incomingFrom(source ri2n.PeerID) (n int) {
	for id := range c.incoming {
		if id.source == source {
			n++
		}
	}
	return n
}

package overlay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/routing"
	"github.com/instantgrid/instantgrid/routing/fifo"
	"github.com/instantgrid/instantgrid/routing/object"
)

const (
	// MaxMail is the largest message of a [Mailbox] in bytes. Larger data
	// belong on a connection.
	MaxMail = 1 << 20

	// maxFragment is how much of a message one frame carries: less than what
	// location objects pass on, with the seal and the frame around it.
	maxFragment = 7900

	// A mailbox takes no more while this much waits for Receive; who sends
	// then tries again.
	maxMailWaiting      = 1024
	maxMailWaitingBytes = 4 << 20

	// maxMailPeers bounds the processes that one mailbox talks to.
	maxMailPeers = 4096

	// mailSaves is how much time a direct session is thought to save each
	// message for each further hop: a guess, until the round trip is known.
	mailSaves = 50 * time.Millisecond
)

var (
	// ErrMailboxClosed reports the use of a mailbox that was closed or
	// suspended.
	ErrMailboxClosed = errors.New("overlay: the mailbox is closed")

	// ErrMailTooLarge reports a message of more than [MaxMail] bytes.
	ErrMailTooLarge = fmt.Errorf("overlay: a message has at most %d bytes", MaxMail)
)

// A MailboxConfig says whose mailbox it is.
type MailboxConfig struct {
	// Owner is the job's key: all processes of the job have it, and nobody else
	// can read or forge what they send each other. Required.
	Owner ed25519.PrivateKey

	// Rank is the process's number in its job.
	Rank uint64

	// Session is greater for each new start of the process, and the same when
	// it moves with its State: the incarnation at which it was started. What a
	// process of an earlier session still sends is refused. Zero means 1.
	Session uint64

	// State is what Suspend returned where the process ran before. Nil: it
	// begins anew.
	State *MailboxState
}

// A MailboxState is what a process takes along when it moves. It holds no keys
// and encodes as JSON as it is; the messages in it are not sealed.
type MailboxState struct {
	Rank     uint64         `json:"rank"`
	Session  uint64         `json:"session"`
	Outgoing []MailOutgoing `json:"outgoing,omitempty"`
	Incoming []MailIncoming `json:"incoming,omitempty"`
	Waiting  []Mail         `json:"waiting,omitempty"` // received, and not yet taken by Receive
}

// MailOutgoing are the fragments for one other process that may not have
// arrived.
type MailOutgoing struct {
	To        uint64   `json:"to"`
	First     uint64   `json:"first"` // number of the first
	Fragments [][]byte `json:"fragments,omitempty"`
	Backlog   [][]byte `json:"backlog,omitempty"` // that were never sent
}

// MailIncoming says how far another process's messages have arrived.
type MailIncoming struct {
	From    uint64 `json:"from"`
	Session uint64 `json:"session"`
	Next    uint64 `json:"next"`
	Part    []byte `json:"part,omitempty"` // of a message
}

// A Mail is one message between two processes of a job.
type Mail struct {
	From    uint64 `json:"from"` // rank
	Payload []byte `json:"payload"`
}

// A Mailbox brings messages from process to process of one job, exactly once
// and in the order sent between each two, wherever they run, across loss,
// changes of path and moves. Its methods may be called concurrently.
//
// It is found by the location object of its rank ([Objects]), which must name
// this node. A process that moves is suspended ([Mailbox.Suspend]), its object
// is swapped to the new node, and a mailbox is opened there with its state.
//
// Messages go straight to the other process's node where there is a session with
// it, otherwise from member to member; traffic over several hops earns a
// session. That the other process is dead a mailbox does not notice: that is for
// [Node.Watch] and for leases.
type Mailbox struct {
	r       *router
	owner   ed25519.PublicKey
	rank    uint64
	key     Key
	session uint64
	sealer  sealer

	mu      sync.Mutex // guards what follows
	waiting []Mail
	bytes   int // of waiting
	err     error
	arrived chan struct{} // closed when waiting or err changes; nil: nobody waits
	room    chan struct{} // closed when a backlog has become shorter, or err is set; nil: nobody waits

	// The loop owns what follows.
	outgoing map[uint64]*outgoing
	incoming map[uint64]*incoming
	places   map[uint64]place
}

// An outgoing is what goes to one other process.
type outgoing struct {
	to       uint64
	key      Key
	sender   *fifo.Sender
	backlog  [][]byte
	repeated uint64
}

// An incoming is what comes from one other process.
type incoming struct {
	receiver *fifo.Receiver
	part     []byte
}

// A place is where frames of a process came from.
type place struct {
	member *routing.Member
	hops   int // that they took
}

// OpenMailbox opens the mailbox of a process that runs on this node. The error is
// [ErrNoRouting], [ErrClosed], ctx's, or says what the configuration lacks.
func (n *Node) OpenMailbox(ctx context.Context, cfg MailboxConfig) (*Mailbox, error) {
	if len(cfg.Owner) != ed25519.PrivateKeySize {
		return nil, errors.New("overlay: a mailbox needs the key of its job: MailboxConfig.Owner")
	}
	if s := cfg.State; s != nil {
		if s.Rank != cfg.Rank {
			return nil, fmt.Errorf("overlay: the state is of rank %d, not of %d", s.Rank, cfg.Rank)
		}
		cfg.Session = s.Session
	}
	cfg.Session = max(cfg.Session, 1)
	sealer, err := newSealer(cfg.Owner)
	if err != nil {
		return nil, err
	}
	owner := cfg.Owner.Public().(ed25519.PublicKey)
	m := &Mailbox{
		r: n.router, owner: owner, rank: cfg.Rank, key: ProcessKey(owner, cfg.Rank), session: cfg.Session, sealer: sealer,
		outgoing: make(map[uint64]*outgoing), incoming: make(map[uint64]*incoming), places: make(map[uint64]place),
	}
	opened := make(chan error, 1)
	if err := n.router.do(ctx, func(now time.Time) {
		if m.r.mailboxes[m.key] != nil {
			opened <- fmt.Errorf("overlay: the mailbox of rank %d is open on this node already", m.rank)
			return
		}
		m.restore(now, cfg.State)
		m.r.mailboxes[m.key] = m
		m.r.objects.Host(m.key, func(now time.Time, d object.Delivery) { m.receive(now, d.Payload, place{hops: 2}) })
		opened <- nil
	}); err != nil {
		return nil, err
	}
	select {
	case err := <-opened:
		if err != nil {
			return nil, err
		}
		return m, nil
	case <-n.ctx.Done():
		return nil, ErrClosed
	}
}

// restore goes on where s stopped.
func (m *Mailbox) restore(now time.Time, s *MailboxState) {
	if s == nil {
		return
	}
	for _, o := range s.Outgoing {
		out := &outgoing{to: o.To, key: ProcessKey(m.owner, o.To), backlog: o.Backlog}
		out.sender = fifo.ResumeSender(now, m.session, o.First, o.Fragments, m.sendTo(out))
		m.outgoing[o.To] = out
	}
	for _, i := range s.Incoming {
		m.incoming[i.From] = m.newIncoming(i.From, i.Session, i.Next, i.Part)
	}
	m.waiting = slices.Clone(s.Waiting)
	for _, w := range m.waiting {
		m.bytes += len(w.Payload)
	}
}

// sendTo returns the function that takes frames of o on their way.
func (m *Mailbox) sendTo(o *outgoing) func(time.Time, []byte) {
	return func(now time.Time, frame []byte) { m.send(now, o.to, o.key, frame) }
}

func (m *Mailbox) newIncoming(from, session, next uint64, part []byte) *incoming {
	in := &incoming{part: part}
	key := ProcessKey(m.owner, from)
	in.receiver = fifo.NewReceiver(session, next,
		func(now time.Time, ack []byte) { m.send(now, from, key, ack) },
		func(_ time.Time, fragment []byte) { m.deliver(from, in, fragment) })
	return in
}

// A fragment begins with one of these.
const (
	fragmentMore byte = 0 // the message goes on
	fragmentLast byte = 1
)

// deliver takes the next fragment of a message.
func (m *Mailbox) deliver(from uint64, in *incoming, fragment []byte) {
	if len(fragment) < 1 || len(in.part)+len(fragment) > MaxMail+1 {
		m.r.malformed.Add(1)
		in.part = nil
		return
	}
	in.part = append(in.part, fragment[1:]...)
	if fragment[0] != fragmentLast {
		return
	}
	payload := in.part
	in.part = nil
	m.mu.Lock()
	m.waiting = append(m.waiting, Mail{from, payload})
	m.bytes += len(payload)
	wake(&m.arrived)
	m.mu.Unlock()
}

// wake closes *c, on which somebody waits. The mutex is held.
func wake(c *chan struct{}) {
	if *c != nil {
		close(*c)
		*c = nil
	}
}

// waitOn returns the channel that wake will close. The mutex is held.
func waitOn(c *chan struct{}) <-chan struct{} {
	if *c == nil {
		*c = make(chan struct{})
	}
	return *c
}

// Send sends payload, which is copied, to the process of rank to. It returns
// when the message is on its way or next in line, and waits while more than a
// message waits for that process. The error is [ErrMailTooLarge],
// [ErrMailboxClosed], [ErrClosed] or ctx's; the message was not sent then.
func (m *Mailbox) Send(ctx context.Context, to uint64, payload []byte) error {
	if len(payload) > MaxMail {
		return ErrMailTooLarge
	}
	fragments := fragment(payload)
	for {
		result := make(chan error, 1)
		var room <-chan struct{}
		if err := m.r.do(ctx, func(now time.Time) {
			m.mu.Lock()
			err := m.err
			room = waitOn(&m.room)
			m.mu.Unlock()
			if err == nil {
				err = m.post(now, to, fragments)
			}
			result <- err
		}); err != nil {
			return err
		}
		select {
		case err := <-result:
			if !errors.Is(err, fifo.ErrFull) {
				return err
			}
		case <-m.r.node.ctx.Done():
			return ErrClosed
		}
		select {
		case <-room:
		case <-m.r.node.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fragment cuts payload into what frames carry.
func fragment(payload []byte) (list [][]byte) {
	for {
		n := min(len(payload), maxFragment)
		kind := fragmentMore
		if n == len(payload) {
			kind = fragmentLast
		}
		list = append(list, append([]byte{kind}, payload[:n]...))
		if payload = payload[n:]; kind == fragmentLast {
			return list
		}
	}
}

// post queues a message. fifo.ErrFull says that another one waits already.
func (m *Mailbox) post(now time.Time, to uint64, fragments [][]byte) error {
	o := m.outgoing[to]
	if o == nil {
		if len(m.outgoing) >= maxMailPeers {
			return &TooManyError{What: "processes that one mailbox sends to", Limit: maxMailPeers}
		}
		o = &outgoing{to: to, key: ProcessKey(m.owner, to)}
		o.sender = fifo.NewSender(m.session, m.sendTo(o))
		m.outgoing[to] = o
	}
	if len(o.backlog) > 0 {
		return fifo.ErrFull
	}
	o.backlog = fragments
	m.pump(now, o)
	return nil
}

// pump sends as much of the backlog as the window takes.
func (m *Mailbox) pump(now time.Time, o *outgoing) {
	if len(o.backlog) == 0 {
		return
	}
	for len(o.backlog) > 0 && o.sender.Send(now, o.backlog[0]) == nil {
		o.backlog = o.backlog[1:]
	}
	if len(o.backlog) == 0 {
		m.mu.Lock()
		wake(&m.room)
		m.mu.Unlock()
	}
}

// Receive returns the next message of any process. The error is
// [ErrMailboxClosed], [ErrClosed] or ctx's.
func (m *Mailbox) Receive(ctx context.Context) (Mail, error) {
	for {
		m.mu.Lock()
		if m.err == nil && len(m.waiting) > 0 {
			next := m.waiting[0]
			m.waiting[0] = Mail{}
			m.waiting = m.waiting[1:]
			m.bytes -= len(next.Payload)
			m.mu.Unlock()
			return next, nil
		}
		if err := m.err; err != nil {
			m.mu.Unlock()
			return Mail{}, err
		}
		arrived := waitOn(&m.arrived)
		m.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return Mail{}, ctx.Err()
		}
	}
}

// full reports whether more waits for Receive than the mailbox may hold.
func (m *Mailbox) full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting) >= maxMailWaiting || m.bytes >= maxMailWaitingBytes
}

// end makes every call return err. It runs on the loop.
func (m *Mailbox) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	wake(&m.arrived)
	wake(&m.room)
}

// Suspend closes the mailbox and returns what the process takes along. What
// arrives from now on is not acknowledged, and is sent again to where the
// process goes. A message that Send has taken and Receive has not returned is in
// the state.
func (m *Mailbox) Suspend(ctx context.Context) (*MailboxState, error) {
	result := make(chan *MailboxState, 1)
	if err := m.r.do(ctx, func(time.Time) { result <- m.suspend() }); err != nil {
		return nil, err
	}
	select {
	case s := <-result:
		if s == nil {
			return nil, ErrMailboxClosed
		}
		return s, nil
	case <-m.r.node.ctx.Done():
		return nil, ErrClosed
	}
}

// suspend returns nil when the mailbox is closed already.
func (m *Mailbox) suspend() *MailboxState {
	if m.r.mailboxes[m.key] != m {
		return nil
	}
	delete(m.r.mailboxes, m.key)
	m.r.objects.Host(m.key, nil)
	m.end(ErrMailboxClosed)
	s := &MailboxState{Rank: m.rank, Session: m.session}
	for _, to := range slices.Sorted(maps.Keys(m.outgoing)) {
		o := m.outgoing[to]
		first, fragments := o.sender.Unacked()
		s.Outgoing = append(s.Outgoing, MailOutgoing{To: to, First: first, Fragments: fragments, Backlog: o.backlog})
	}
	for _, from := range slices.Sorted(maps.Keys(m.incoming)) {
		in := m.incoming[from]
		session, next := in.receiver.Next()
		s.Incoming = append(s.Incoming, MailIncoming{From: from, Session: session, Next: next, Part: in.part})
	}
	m.mu.Lock()
	s.Waiting = m.waiting
	m.waiting, m.bytes = nil, 0
	m.mu.Unlock()
	return s
}

// Close closes the mailbox. What has not arrived is lost; see Suspend.
func (m *Mailbox) Close() error {
	_, err := m.Suspend(context.Background())
	if errors.Is(err, ErrMailboxClosed) {
		return nil
	}
	return err
}

// Hint says that the processes of these ranks will soon be sent much, as the
// neighbours of a collective operation are: their nodes get sessions before the
// traffic has earned them.
func (m *Mailbox) Hint(ctx context.Context, ranks ...uint64) error {
	return m.r.do(ctx, func(now time.Time) {
		for _, rank := range ranks[:min(len(ranks), maxMailPeers)] {
			key := ProcessKey(m.owner, rank)
			if at, ok := m.r.objects.Located(key); ok {
				m.r.shortcuts.Hint(now, []routing.PeerID{at.Holder})
				continue
			}
			m.r.objects.Get(now, key, func(now time.Time, e object.Entry, err error) {
				if err == nil && e.Record.Holder != m.r.routing.Self().Peer {
					m.r.shortcuts.Hint(now, []routing.PeerID{e.Record.Holder})
				}
			})
		}
	})
}

func (m *Mailbox) deadline() (at time.Time) {
	for _, o := range m.outgoing {
		at = sooner(at, o.sender.Deadline())
	}
	return at
}

// advance sends again what has not arrived. Where it was thought to go may be
// wrong.
func (m *Mailbox) advance(now time.Time) {
	for _, o := range m.outgoing {
		if d := o.sender.Deadline(); d.IsZero() || now.Before(d) {
			continue
		}
		if again := o.sender.Repeated(); again > o.repeated {
			o.repeated = again
			delete(m.places, o.to)
			m.r.objects.Forget(o.key)
		}
		o.sender.Advance(now)
	}
}

// send takes a frame to the process of rank to, which lives at key: straight to
// its node, over a session that there is; from member to member toward that
// node's position; or toward the key, where somebody knows more.
func (m *Mailbox) send(now time.Time, to uint64, key Key, frame []byte) {
	r := m.r
	sealed := m.sealer.seal(key, m.rank, frame)
	if other := r.mailboxes[key]; other != nil {
		// The state machines must not be called from within each other.
		r.later = append(r.later, func(now time.Time) {
			if r.mailboxes[key] == other {
				other.receive(now, sealed, place{})
			}
		})
		return
	}
	at := m.places[to] // newer than what the object said when it was asked
	if rec, ok := r.objects.Located(key); ok && at.member == nil {
		at = place{member: r.names.memberOf(now, rec.Holder), hops: 2}
		if at.member == nil {
			at.member = routing.NewMember(rec.Holder, routing.Nonce{}, nil)
		}
	}
	if at.member == nil || at.member.Peer == r.routing.Self().Peer {
		r.objects.Send(now, key, sealed)
		return
	}
	peer := at.member.Peer
	hops := max(at.hops, 2)
	r.shortcuts.Sent(now, peer, len(sealed), hops, time.Duration(hops-1)*mailSaves)
	r.carrier.used(now, peer)
	msg := append(append(make([]byte, 0, 32+len(sealed)), key[:]...), sealed...)
	if r.carrier.sendNow(peer, protocolMail, msg) {
		return
	}
	if len(at.member.Proof) > 0 {
		r.routing.Route(now, at.member.Position(), serviceMail, msg)
		return
	}
	r.objects.Send(now, key, sealed)
}

// mailArrived takes a sealed frame that a peer has sent straight to this node.
func (r *router) mailArrived(now time.Time, from *routing.Member, b []byte) {
	if len(b) < len(Key{}) {
		r.malformed.Add(1)
		return
	}
	r.mailFor(now, Key(b), b[len(Key{}):], place{member: from, hops: 1})
}

// mailRouted takes one that was routed to this node's position, or to that of a
// node which has gone.
func (r *router) mailRouted(now time.Time, d routing.Delivery) {
	if len(d.Payload) < len(Key{}) {
		r.malformed.Add(1)
		return
	}
	r.mailFor(now, Key(d.Payload), d.Payload[len(Key{}):], place{member: d.Origin, hops: d.Hops})
}

// mailFor gives a frame to its process, or sends it after it.
func (r *router) mailFor(now time.Time, key Key, sealed []byte, from place) {
	if m := r.mailboxes[key]; m != nil {
		m.receive(now, sealed, from)
		return
	}
	if len(sealed) <= object.MaxPayload {
		if at, ok := r.objects.Located(key); ok && from.member != nil && at.Holder == from.member.Peer {
			return // it says that the process is where the frame comes from
		}
		r.objects.Send(now, key, sealed)
	}
}

// receive takes a sealed frame for this process.
func (m *Mailbox) receive(now time.Time, sealed []byte, from place) {
	rank, frame, err := m.sealer.open(m.key, sealed)
	if err != nil {
		m.r.mailForged.Add(1)
		return
	}
	if fifo.IsAck(frame) {
		if o := m.outgoing[rank]; o != nil {
			if o.sender.Receive(now, frame) != nil {
				m.r.malformed.Add(1)
			}
			m.place(rank, from)
			m.pump(now, o)
		}
		return
	}
	if m.full() {
		m.r.mailFull.Add(1) // it is sent again
		return
	}
	in := m.incoming[rank]
	if in == nil {
		if len(m.incoming) >= maxMailPeers {
			m.r.mailFull.Add(1)
			return
		}
		in = m.newIncoming(rank, 0, 1, nil)
		m.incoming[rank] = in
	}
	m.place(rank, from)
	session, _ := in.receiver.Next()
	if in.receiver.Receive(now, frame) != nil {
		m.r.malformed.Add(1)
	}
	if after, _ := in.receiver.Next(); after != session && session != 0 {
		in.part = nil // the sender began anew, in the middle of a message perhaps
	}
}

// place remembers where frames of rank come from.
func (m *Mailbox) place(rank uint64, from place) {
	if from.member != nil {
		m.places[rank] = from
	}
}

package rendezvous

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures a [Client]. Server is required, and Endpoint with Links
// unless Dial is set.
type Config struct {
	// Server is the rendezvous to register with.
	Server Address

	// Endpoint dials the server, and its peer ID is what we register under.
	// It stays its owner's.
	Endpoint *ri2n.Endpoint

	// Links returns the links to dial from; it is called for each attempt.
	Links func() []*ri2n.Link

	// Resolve looks a host name up. Nil means the system's resolver. Literal
	// addresses are not looked up.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Dial makes a session by other means than Endpoint and Links. Nil means
	// these two.
	Dial func(ctx context.Context) (Session, error)

	// Header is what every relayed datagram that leaves begins with, for a
	// Session of Dial that carries others too. The Session takes it off those
	// that arrive, and off MaxDatagramSize. Empty: nothing.
	Header []byte

	// OnChannel receives the channels that peers open toward us. It is called
	// on a goroutine of the client and must not block; [Channel.Attach] may
	// be called in it or later. Nil refuses them.
	OnChannel func(*Channel)

	// AdmitKey makes us a guest: it is shown to the server, which otherwise
	// serves members only. Zero shows none. See [Client.Admit].
	AdmitKey Key

	// Logger receives state changes. Nil is silent.
	Logger *slog.Logger

	// Rand spreads attempts in time. Nil means a seed of its own. It is used
	// by the client alone from here on.
	Rand *rand.Rand
}

// Status is what a client knows of its registration at one moment.
type Status struct {
	Server     Address
	Registered bool
	Since      time.Time      // of the state above
	RTT        time.Duration  // of the last refresh; zero: not measured yet
	Observed   netip.AddrPort // where the server sees us
	STUN       []netip.AddrPort
	Attempts   int   // since the last registration
	LastError  error // of the last attempt or session; nil once registered
}

// A Client keeps this node registered. Its methods may be called concurrently.
type Client struct {
	cfg    Config
	self   ri2n.PeerID
	log    *slog.Logger
	random *rand.Rand // the loop's
	stop   context.CancelFunc
	kick   chan struct{} // capacity 1: the loop is to look at its state
	ended  chan struct{}

	mu       sync.Mutex // guards what follows, and uplinks and channels
	closed   bool
	status   Status
	changed  chan struct{}
	up       *uplink // nil: not registered
	hurry    bool    // an attempt is to start at once
	channels map[*Channel]struct{}
	incoming map[incomingKey]*Channel
	admitKey *Key
	deposits map[[32]byte]time.Time // what is deposited, until when
	drops    uint64                 // datagrams without a channel or a reader
}

// An incomingKey names a channel of somebody else's across sessions.
type incomingKey struct {
	source ri2n.PeerID
	key    uint64
}

// NewClient starts a client, which registers and stays registered until Close.
// It returns at once; see [Client.Wait].
func NewClient(cfg Config) (*Client, error) {
	if cfg.Server.IsZero() {
		return nil, errors.New("rendezvous: no server address")
	}
	if cfg.Dial == nil && (cfg.Endpoint == nil || cfg.Links == nil) {
		return nil, errors.New("rendezvous: no endpoint and links to dial from")
	}
	if cfg.Resolve == nil {
		cfg.Resolve = systemResolver
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Client{
		cfg:      cfg,
		log:      cfg.Logger.With("rendezvous", cfg.Server.HostPort()),
		random:   cfg.Rand,
		stop:     stop,
		kick:     make(chan struct{}, 1),
		ended:    make(chan struct{}),
		status:   Status{Server: cfg.Server, Since: time.Now()},
		changed:  make(chan struct{}),
		channels: make(map[*Channel]struct{}),
		incoming: make(map[incomingKey]*Channel),
		deposits: make(map[[32]byte]time.Time),
	}
	if cfg.Endpoint != nil {
		c.self = cfg.Endpoint.PeerID()
	}
	if cfg.AdmitKey != (Key{}) {
		c.admitKey = &cfg.AdmitKey
	}
	go c.run(ctx)
	return c, nil
}

func systemResolver(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Close leaves the rendezvous, ends all channels with [ErrClosed] and returns
// when every goroutine of the client has ended. It may be called twice.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	var done []*Channel
	for ch := range c.channels {
		if ch.finish(ErrClosed) {
			done = append(done, ch)
		}
	}
	c.mu.Unlock()
	for _, ch := range done {
		close(ch.done)
	}
	c.stop()
	<-c.ended
	return nil
}

// Server returns the address that the client was made with.
func (c *Client) Server() Address { return c.cfg.Server }

// Status returns a snapshot.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Changed returns a channel that is closed at the next change of the status.
// Call it again for the one after that.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// setStatus changes the status under the lock.
func (c *Client) setStatus(change func(*Status)) {
	change(&c.status)
	close(c.changed)
	c.changed = make(chan struct{})
}

// Wait returns nil once we are registered. When the server refuses us it
// returns a [*RefusedError] at once, though the client goes on trying, since
// an operator may change that. Otherwise it returns a [*UnreachableError] when
// ctx ends, which is also ctx's error, or [ErrClosed].
func (c *Client) Wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		status, changed, closed := c.status, c.changed, c.closed
		c.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case status.Registered:
			return nil
		case permanent(status.LastError):
			return status.LastError
		}
		select {
		case <-changed:
		case <-c.ended:
			return ErrClosed
		case <-ctx.Done():
			e := &UnreachableError{Server: c.cfg.Server, Err: status.LastError, ended: ctx.Err()}
			var last *UnreachableError
			if errors.As(status.LastError, &last) {
				e.Err = last.Err
			}
			return e
		}
	}
}

// Retry makes the next attempt start now, for a network that has changed. It
// also has a running session prove that it is alive.
func (c *Client) Retry() {
	c.mu.Lock()
	if c.up != nil {
		c.up.probe = true
	} else {
		c.hurry = true
	}
	c.mu.Unlock()
	c.wake()
}

// LinksChanged tells that what [Config.Links] returns is different now. A
// session whose paths were all on links that have gone goes on over another
// one; LinksChanged returns when it does, or after a few seconds.
func (c *Client) LinksChanged() {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	if up != nil {
		if s, ok := up.session.(overRI2N); ok {
			s.move(c.cfg.Links())
		}
	}
	c.Retry()
}

func (c *Client) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Deposit asks the server to admit one guest, who holds t, to us. It is kept
// up across sessions until t expires or [Client.Withdraw]. It returns when the
// server has agreed.
func (c *Client) Deposit(ctx context.Context, t *Token) error {
	digest := t.AdmitKey().Digest()
	c.mu.Lock()
	c.deposits[digest] = t.Expiry
	c.mu.Unlock()
	err := c.request(ctx, func(id uint32) protocol.Message {
		return protocol.Deposit{Request: id, Digest: digest, Expiry: t.Expiry}
	})
	var refused *RefusedError
	if errors.As(err, &refused) {
		c.mu.Lock()
		delete(c.deposits, digest)
		c.mu.Unlock()
	}
	return err
}

// Withdraw takes a deposit back, without waiting for the server.
func (c *Client) Withdraw(t *Token) {
	digest := t.AdmitKey().Digest()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.deposits, digest)
	if c.up != nil {
		c.up.send(protocol.Deposit{Request: c.up.newRequest(nil), Digest: digest, Expiry: time.Unix(0, 0)})
	}
}

// Admit makes us the guest of whoever deposited k, now and in later sessions,
// and returns when we are registered, or with a [*RefusedError] that says what
// is wrong with the token.
func (c *Client) Admit(ctx context.Context, k Key) error {
	c.mu.Lock()
	c.admitKey = &k
	up := c.up
	if up == nil {
		c.hurry = true
		c.setStatus(func(s *Status) { s.LastError = nil })
	}
	c.mu.Unlock()
	if up == nil {
		c.wake()
		return c.Wait(ctx)
	}
	return c.request(ctx, func(id uint32) protocol.Message {
		return protocol.Admit{Request: id, Key: k}
	})
}

// request sends what make returns, once registered, and waits for the answer.
// A session that ends before takes the question along; it is asked again on
// the next.
func (c *Client) request(ctx context.Context, make_ func(id uint32) protocol.Message) error {
	for {
		if err := c.Wait(ctx); err != nil {
			return err
		}
		answer := make(chan error, 1)
		c.mu.Lock()
		up := c.up
		if up == nil {
			c.mu.Unlock()
			continue
		}
		up.send(make_(up.newRequest(answer)))
		c.mu.Unlock()
		select {
		case err := <-answer:
			return err
		case <-up.lost:
		case <-ctx.Done():
			return &UnreachableError{Server: c.cfg.Server, Err: ctx.Err()}
		}
	}
}

// Ask puts a question to the ledger of the rendezvous, once registered, and
// returns the answer; package rendezvous/membership has the encodings. A
// session that ends before takes the question along, and it is asked again on
// the next: every question may be asked twice. A rendezvous without a ledger
// does not answer.
func (c *Client) Ask(ctx context.Context, question []byte) ([]byte, error) {
	for {
		if err := c.Wait(ctx); err != nil {
			return nil, err
		}
		answer := make(chan []byte, 1)
		c.mu.Lock()
		up := c.up
		if up == nil {
			c.mu.Unlock()
			continue
		}
		if len(up.questions) >= maxAsked {
			c.mu.Unlock()
			return nil, errTooManyAsked
		}
		up.lastAnswer++
		request := up.lastAnswer
		up.questions[request] = answer
		for _, m := range protocol.Asks(request, question) {
			up.send(m)
		}
		c.mu.Unlock()
		select {
		case b := <-answer:
			return b, nil
		case <-up.lost:
		case <-ctx.Done():
			c.mu.Lock()
			delete(up.questions, request)
			c.mu.Unlock()
			return nil, &UnreachableError{Server: c.cfg.Server, Err: errNoAnswer, ended: ctx.Err()}
		}
	}
}

// maxAsked bounds the questions to the ledger without an answer yet.
const maxAsked = 16

var (
	errTooManyAsked = errors.New("rendezvous: too many questions wait for an answer of the ledger")
	errNoAnswer     = errors.New("its ledger does not answer; it may not have one")
)

// connectTime bounds an attempt, from the first packet to the registration:
// four round trips by satellite and two lost flights.
const connectTime = 6 * time.Second

// run makes one session after the other.
func (c *Client) run(ctx context.Context) {
	defer close(c.ended)
	var pause backoff
	for ctx.Err() == nil {
		up, err := c.connect(ctx)
		var wait time.Duration
		if err == nil {
			pause.reset()
			err = c.serve(ctx, up)
			wait = pause.lost(c.random)
		} else {
			wait = pause.failed(c.random)
		}
		if ctx.Err() != nil {
			return
		}
		err = c.explain(err)
		var refused *RefusedError
		switch {
		case permanent(err):
			wait = max(wait, jitter(c.random, backoffRefused, 0.2))
		case errors.As(err, &refused) && refused.Reason == ReasonSuperseded:
			wait = jitter(c.random, backoffSuperseded, 0.2)
		}
		c.failed(err, wait)
		c.rest(ctx, wait)
	}
}

// failed notes why there is no session, and gives up channels that have slept
// for too long.
func (c *Client) failed(err error, wait time.Duration) {
	now := time.Now()
	var over []*Channel
	c.mu.Lock()
	for ch := range c.channels {
		if !now.Before(ch.asleep.Add(sleepTime)) && ch.finish(err) {
			over = append(over, ch)
		}
	}
	first := c.status.Registered || c.status.Attempts == 0
	c.setStatus(func(s *Status) {
		if s.Registered {
			s.Registered = false
			s.Since = now
			s.Attempts = 0
		}
		s.Attempts++
		s.LastError = err
	})
	c.mu.Unlock()
	for _, ch := range over {
		close(ch.done)
	}
	if first { // not a line for each attempt
		c.log.Warn("not registered", "err", err, "retry", wait)
	}
}

// rest waits, unless somebody is in a hurry.
func (c *Client) rest(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.mu.Lock()
		hurry := c.hurry
		c.hurry = false
		c.mu.Unlock()
		if hurry {
			return
		}
		select {
		case <-timer.C:
			return
		case <-c.kick:
		case <-ctx.Done():
			return
		}
	}
}

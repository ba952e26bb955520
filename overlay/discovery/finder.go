package discovery

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Config configures a [Finder]. Self and Wire are required.
type Config struct {
	Self Self
	Wire Wire // the Finder's from here on

	// Known reports whether a peer is known to be a member of the grid: those
	// have room in a full table. It must not call the Finder. Nil: nobody is.
	Known func(ri2n.PeerID) bool

	// Seed makes the waits that RFC 6762 wants to be random.
	Seed uint64

	Logger *slog.Logger // nil: silent
}

// Counters count since the start. Each limit has one.
type Counters struct {
	Packets     uint64 `json:"packets"`      // that arrived, our own included
	Malformed   uint64 `json:"malformed"`    // packets and announcements that make no sense
	OffLink     uint64 `json:"off_link"`     // from elsewhere than the local network
	RateLimited uint64 `json:"rate_limited"` // packets and questions that were too many
	OtherGrids  uint64 `json:"other_grids"`  // announcements of nodes of other grids
	TableFull   uint64 `json:"table_full"`   // announcements that there was no room for
	Conflicts   uint64 `json:"conflicts"`    // times that another computer had our name
	Questions   uint64 `json:"questions"`    // that we asked
	Answers     uint64 `json:"answers"`      // that we gave
	Goodbyes    uint64 `json:"goodbyes"`     // that we said
	SendErrors  uint64 `json:"send_errors"`
}

// A Finder announces a node and hears others until it is closed.
type Finder struct {
	wire    Wire
	log     *slog.Logger
	cancel  context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{} // the deadline has changed

	mu      sync.Mutex // guards what follows
	speaker speaker
	changed chan struct{} // closed at the next change of what is heard
	closed  bool
}

// Start begins to announce and to listen.
func Start(cfg Config) *Finder {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Finder{
		wire: cfg.Wire, log: cfg.Logger, cancel: cancel,
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
		speaker: speaker{
			self:   cfg.Self,
			random: rand.New(rand.NewPCG(cfg.Seed, 0)),
			table:  table{entries: make(map[place]*entry), known: cfg.Known},
		},
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Known == nil {
		f.speaker.table.known = func(ri2n.PeerID) bool { return false }
	}
	f.running.Go(func() {
		err := f.wire.Watch(ctx, func(list []Attachment) {
			f.do(func(now time.Time, s *speaker) { s.attach(now, list) })
		})
		if ctx.Err() == nil {
			f.log.Warn("local networks are no longer watched", "err", err)
		}
	})
	f.running.Go(f.receive)
	f.running.Go(func() { f.tick(ctx) })
	return f
}

// do runs an event of the protocol and sends what it has to say.
func (f *Finder) do(event func(now time.Time, s *speaker)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.doLocked(event)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Finder) doLocked(event func(now time.Time, s *speaker)) {
	s := &f.speaker
	event(time.Now(), s)
	for _, o := range s.out {
		if err := f.wire.Send(o.at, o.to, o.data); err != nil {
			s.count.SendErrors++
			f.log.Debug("multicast DNS not sent", "interface", o.at.Name, "err", err)
		}
	}
	s.out = s.out[:0]
	if s.news {
		s.news = false
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

func (f *Finder) receive() {
	for {
		p, err := f.wire.Receive()
		if err != nil {
			return
		}
		f.do(func(now time.Time, s *speaker) { s.receive(now, p) })
	}
}

// tick has the protocol do what is due.
func (f *Finder) tick(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			f.mu.Lock()
			if !f.closed {
				f.doLocked(func(now time.Time, s *speaker) { s.advance(now) })
			}
			f.mu.Unlock()
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		next := f.speaker.deadline()
		f.mu.Unlock()
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// SetState withdraws the service of the present state and announces that of
// another.
func (f *Finder) SetState(state State) {
	f.do(func(now time.Time, s *speaker) { s.setState(now, state) })
}

// Announce says again what we are: a port, or the name, has changed.
func (f *Finder) Announce() {
	f.do(func(now time.Time, s *speaker) { s.announceAgain(now) })
}

// Ask has everybody asked soon, though not more than once a second.
func (f *Finder) Ask() {
	f.do(func(now time.Time, s *speaker) { s.ask(now) })
}

// Heard returns who was heard, by name.
func (f *Finder) Heard() []Heard {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.speaker.table.list()
}

// Of returns the transport addresses at which peer says that it is, at most
// four.
func (f *Finder) Of(peer ri2n.PeerID) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.speaker.table.of(peer)
}

// Changed returns a channel that is closed when somebody is heard anew, or
// differently, or not any more.
func (f *Finder) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Status is what a [Finder] says and hears.
type Status struct {
	State      State    `json:"state"`
	Name       string   `json:"name"`       // of the service instance
	Interfaces []string `json:"interfaces"` // that it is announced on
	Heard      []Heard  `json:"heard"`
	Counters   Counters `json:"counters"`
}

// Status returns a snapshot.
func (f *Finder) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.speaker
	st := Status{State: s.self.State, Name: s.self.Name, Interfaces: []string{}, Heard: s.table.list(), Counters: s.count}
	if s.plain || s.self.Name == "" {
		st.Name = s.self.Peer.Short()
	}
	for _, x := range s.stations {
		if x.settled() {
			st.Interfaces = append(st.Interfaces, x.Name)
		}
	}
	return st
}

// Close says goodbye and ends. It may be called twice.
func (f *Finder) Close() error {
	f.mu.Lock()
	if !f.closed {
		f.doLocked(func(_ time.Time, s *speaker) { s.withdraw() })
		f.closed = true
	}
	f.mu.Unlock()
	f.cancel()
	err := f.wire.Close()
	f.running.Wait()
	return err
}

package mpi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits of one pair of ranks.
const (
	// EagerLimit is the longest message that is sent before the receiver asks
	// for it, in bytes. Longer ones announce themselves (RTS) and wait (CTS).
	EagerLimit = 64 << 10

	// window is what messages that nobody has received yet may take up at the
	// receiver, for each sender; each counts envelopeCost beside its data,
	// which is more than what it is held in.
	window       = 1 << 20
	envelopeCost = 256

	// creditQuantum is what is given back at once.
	creditQuantum = window / 4

	dataChunk  = 512 << 10 // of a long message; others get between two
	maxControl = 8192      // control frames that wait for one rank
	// farewellTime is how long a rank that is held for dead may take to hear of it and to
	// close its connection before that is cut. A guess: some round trips.
	farewellTime = time.Second

	maxEarly = 1024 // of one rank, of communicators that we do not have yet
)

// Config describes a process. The zero value works.
type Config struct {
	// Sites names the site of each rank. Collective calls then cross from
	// one site to another as seldom as they can. Nil means one site.
	Sites []string

	// BufferBytes is what Bsend may hold. Zero means 16 MiB.
	BufferBytes int
}

// A Process is one rank. All its communicators share it. Its methods may be
// called from several goroutines.
type Process struct {
	ep    Endpoint
	cfg   Config
	rank  int
	size  int
	world *Comm
	wg    sync.WaitGroup // writers

	mu       sync.Mutex
	peers    []peer
	match    matcher
	live     list[Request]
	probes   []*Request
	spare    []*Request
	comms    map[uint64]*Comm
	early    []earlyFrame
	freed    map[uint64]bool // contexts whose messages nobody wants
	freedLog []uint64
	buffered int   // bytes that Bsend holds
	closed   error // why nothing works any more
	counters Counters
	idle     sync.Cond // some peer has nothing to write
}

// Counters count since the start. Each limit has one.
type Counters struct {
	Eager         uint64 `json:"eager"`          // messages sent at once
	Rendezvous    uint64 `json:"rendezvous"`     // messages that asked first
	Unexpected    uint64 `json:"unexpected"`     // messages that came before their receive
	CreditWaits   uint64 `json:"credit_waits"`   // messages that waited for room at the receiver
	BufferRefused uint64 `json:"buffer_refused"` // Bsend without room
	Violations    uint64 `json:"violations"`     // ranks dropped since they broke the protocol
	Overflows     uint64 `json:"overflows"`      // of these, with too many control frames
	Failures      uint64 `json:"failures"`       // ranks that failed
	Stray         uint64 `json:"stray"`          // messages of calls that were over, thrown away
	Mismatches    uint64 `json:"mismatches"`     // collective calls that did not fit
}

// An earlyFrame concerns a communicator that we have not made yet.
type earlyFrame struct {
	from int
	h    header
	body []byte
}

// errLeft is the end of a rank that has finished.
var errLeft = errors.New("mpi: it has finished")

// Init makes this process a rank of the world that ep joins. Ranks pass the
// same sites.
func Init(ep Endpoint, cfg Config) (*Process, error) {
	if cfg.Sites != nil && len(cfg.Sites) != ep.Size() {
		return nil, fault(ErrArg, "Init", fmt.Errorf("%d sites for %d ranks", len(cfg.Sites), ep.Size()))
	}
	if cfg.BufferBytes == 0 {
		cfg.BufferBytes = 16 << 20
	}
	p := &Process{ep: ep, cfg: cfg, rank: ep.Rank(), size: ep.Size(), comms: make(map[uint64]*Comm), freed: make(map[uint64]bool)}
	p.idle.L = &p.mu
	p.peers = make([]peer, p.size)
	group := make([]int, p.size)
	for i := range p.peers {
		p.peers[i] = peer{rank: i, credit: window}
		group[i] = i
	}
	p.mu.Lock()
	p.world = p.newComm(worldContext, group)
	p.mu.Unlock()
	ep.Start(receiver{p})
	return p, nil
}

// World returns the communicator of all ranks.
func (p *Process) World() *Comm { return p.world }

// Counters returns what happened so far.
func (p *Process) Counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counters
}

// Fail tells that a rank of the world is dead: a failure detector's word. What
// waits for it ends with ErrProcFailed, here and, as they are told, at all
// ranks; should it live nevertheless, it is fenced.
func (p *Process) Fail(rank int, cause error) error {
	if rank < 0 || rank >= p.size || rank == p.rank {
		return fault(ErrRank, "Fail", fmt.Errorf("rank %d of %d", rank, p.size))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rankFailed(rank, cause)
	return nil
}

// Finalize ends this process's part: it waits until all ranks that live have
// called it, lets go of them and closes the endpoint. A rank that closes
// without it has failed, as far as the others can see.
func (p *Process) Finalize(ctx context.Context) error {
	_, _, err := p.world.agree(ctx, "Finalize", ^uint64(0))
	if err != nil && classOf(err) != ErrProcFailed && classOf(err) != ErrClosed && classOf(err) != ErrFenced {
		p.Close()
		return err
	}
	p.mu.Lock()
	for i := range p.peers {
		if pr := &p.peers[i]; i != p.rank && pr.gone == nil {
			pr.control = append(pr.control, controlFrame{header: header{kind: frameBye}})
			p.kick(pr)
		}
	}
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		p.idle.Broadcast()
		p.mu.Unlock()
	})
	for ctx.Err() == nil && p.writes() {
		p.idle.Wait()
	}
	p.mu.Unlock()
	stop()
	return p.Close()
}

// writes reports whether something waits to be written. p.mu is held.
func (p *Process) writes() bool {
	for i := range p.peers {
		if pr := &p.peers[i]; pr.gone == nil && (pr.writing || pr.waits()) {
			return true
		}
	}
	return false
}

// Close ends this process at once. All that waits ends with ErrClosed. It may
// be called twice.
func (p *Process) Close() error {
	p.mu.Lock()
	p.stop(ErrClosed)
	p.mu.Unlock()
	err := p.ep.Close()
	p.wg.Wait()
	return err
}

// stop ends everything that goes on, with class. p.mu is held.
func (p *Process) stop(class Class) {
	if p.closed == nil {
		p.closed = class
	}
	for i := range p.peers {
		if pr := &p.peers[i]; i != p.rank && pr.gone == nil {
			pr.gone = class
			pr.clear()
			p.ep.Drop(i)
		}
	}
	for _, c := range p.comms {
		for _, x := range c.active {
			x.fail(fault(class, x.name, nil))
		}
	}
	for _, r := range p.alive() {
		p.giveUp(r, r.fault(class, -1, nil))
	}
	p.idle.Broadcast()
}

// rankFailed ends what depends on a rank, and tells the others. p.mu is held.
func (p *Process) rankFailed(rank int, cause error) {
	pr := &p.peers[rank]
	if pr.gone != nil || rank == p.rank {
		return
	}
	if cause == nil {
		cause = errors.New("mpi: the failure detector says so")
	}
	pr.gone = cause
	pr.clear()
	if errors.Is(cause, errLeft) {
		p.ep.Drop(rank)
	} else {
		p.farewell(pr)
		p.counters.Failures++
		p.broadcast(p.world, header{kind: frameDead, id: uint64(rank)})
	}
	// Messages that came whole may still be received; those whose data would
	// have to be asked for may not.
	for context := range p.match.contexts {
		p.match.each(context, func(a *arrival) {
			if int(a.source) == rank && a.rts {
				p.match.drop(a)
			}
		})
	}
	for _, r := range p.alive() {
		switch {
		case r.kind == kindSend && r.to == pr,
			r.receives() && (int(r.want.source) == rank || r.from == rank && !r.posted):
			p.giveUp(r, r.fault(ErrProcFailed, rank, cause))
		}
	}
	for _, c := range p.comms {
		c.memberFailed(rank)
	}
	for _, r := range p.alive() {
		if r.hold() != nil {
			r.wake()
		}
	}
	p.idle.Broadcast()
}

// farewell tells a rank that lives nevertheless that it is held for dead, and lets go of
// it. Merely cut off it would hold us for dead, and tell so to those that have not
// heard of it yet: they would fence the wrong one. p.mu is held.
func (p *Process) farewell(pr *peer) {
	pr.lastWord = true
	time.AfterFunc(farewellTime, func() { p.ep.Drop(pr.rank) })
	p.kick(pr)
}

// alive returns the requests that are not complete. p.mu is held.
func (p *Process) alive() (all []*Request) {
	for r := p.live.first; r != nil; r = r.inLive.next {
		all = append(all, r)
	}
	return all
}

// broadcast sends a frame to all live members of c but this one. p.mu is held.
func (p *Process) broadcast(c *Comm, h header) {
	for _, w := range c.group {
		p.control(&p.peers[w], h, nil)
	}
}

// control queues a control frame and sees that it is sent. p.mu is held.
func (p *Process) control(pr *peer, h header, body []byte) {
	if pr.gone != nil || pr.rank == p.rank {
		return
	}
	if len(pr.control) >= maxControl {
		p.counters.Overflows++
		p.counters.Violations++
		p.rankFailed(pr.rank, errors.New("mpi: it does not take our control frames"))
		return
	}
	pr.control = append(pr.control, controlFrame{h, body})
	p.kick(pr)
}

// fenced ends this process, which the others hold for dead. p.mu is held.
func (p *Process) fenced() { p.stop(ErrFenced) }

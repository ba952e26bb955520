package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A transfer is what is done in a network: a node on host From, which knows
// the peer ID of the one on host To, connects to it and sends bytes. Both are
// registered at a rendezvous on host Rendezvous. It encodes as JSON, so that
// worker processes can be told.
type transfer struct {
	Scenario   netsim.Scenario
	Rendezvous string
	From, To   string
	Bytes      int64  // random ones, of the scenario's seed; not used with Source
	Source     string // file to send; empty: random bytes
	Target     string // file to write what arrived to; empty: none
	Events     bool   // tell events as they happen
	Capture    string // file for every step of every packet (pcapng); empty: none; simulator only
}

// An outcome says how a transfer went. Durations count from the dial, with
// both nodes registered and their outside addresses known; zero is "never".
type outcome struct {
	Intact  bool   // everything arrived, and the hashes agree
	Bytes   int64  // that arrived
	SHA256  string // of what was sent
	Arrived string // SHA-256 of what arrived

	FirstByte   time.Duration // until the first application byte was written
	FirstAtPeer time.Duration // until the other side read it
	Done        time.Duration // until the other side's hash was back
	Direct      time.Duration // until the session sent on a proven direct path

	Path       string // how the session sends at the end: "direct", "relay" or "peer-relay"
	Reason     string // why it is not direct
	Advice     string // what would change that
	PeerPath   string // the other side's view, which must be the same
	PeerReason string

	Packets netsim.Stats // in the simulator
	Drops   []string     // why packets ended early, in the simulator

	// Probes is how many packets the two nodes sent to others than the
	// rendezvous besides those of their sessions and answers; counted in the simulator.
	Probes int
	// ProbeRate is the most of them that one node sent in a second.
	ProbeRate int
	// Broken says which rule for all nodes was broken first (watch.go), and when.
	Broken string

	Failure string // what went wrong; empty: nothing
}

// An event is something that happened during a transfer.
type event struct {
	At     time.Duration `json:"at_ns"` // since the network's start
	Host   string        `json:"host"`
	Kind   string        `json:"kind"`
	Path   string        `json:"path,omitempty"`
	Remote string        `json:"remote,omitempty"`
	State  string        `json:"state,omitempty"`
	Reason string        `json:"reason,omitempty"`
	Detail string        `json:"detail,omitempty"`
}

const (
	// rendezvousPort and the port after it are what agents find by default.
	rendezvousPort = rendezvous.DefaultPort
	// servicePort is where the receiving node listens.
	servicePort = 7000
	// setupTime, transferTime and decisionTime bound the parts of a transfer:
	// until both nodes are registered, until the bytes have arrived (and more
	// for many bytes, at slowest), and until it is known whether the path becomes
	// direct.
	setupTime    = 20 * time.Second
	transferTime = 90 * time.Second
	slowest      = 100_000 // bytes a second
	decisionTime = 30 * time.Second
	// agreeTime is how long the two ends may differ on path and reason.
	agreeTime = time.Second
)

// run carries x out in a running network. It returns when everything that it
// started has ended. report, which may be nil, is called for each event, by one
// goroutine at a time.
func (x transfer) run(ctx context.Context, network netsim.Network, report func(event)) (o outcome) {
	if report == nil {
		report = func(event) {}
	}
	r := &running{transfer: x, network: network, start: time.Now(), report: report}
	defer r.close()
	if err := r.exchange(ctx, &o); err != nil {
		o.Failure = err.Error()
	}
	if s, ok := network.(*netsim.Sim); ok {
		o.Packets = s.Stats()
		for _, d := range s.Drops() {
			o.Drops = append(o.Drops, d.String())
		}
	}
	return o
}

// running is a transfer under way.
type running struct {
	transfer
	network netsim.Network
	start   time.Time

	mu     sync.Mutex // held while report runs
	report func(event)

	closers []func() error // in the order of opening
	events  sync.WaitGroup
}

// tell reports an event that is not a node's.
func (r *running) tell(e event) {
	if !r.Events {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = time.Since(r.start)
	r.report(e)
}

func (r *running) onClose(f func() error) { r.closers = append(r.closers, f) }

// close ends what was opened, the latest first.
func (r *running) close() {
	for i := len(r.closers) - 1; i >= 0; i-- {
		r.closers[i]()
	}
	r.events.Wait()
}

// exchange fills in o as far as it gets.
func (r *running) exchange(ctx context.Context, o *outcome) error {
	setup, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	address, err := r.startRendezvous(setup)
	if err != nil {
		return fmt.Errorf("start the rendezvous: %w", err)
	}
	fromID, err := r.identity(seedFrom)
	if err != nil {
		return err
	}
	toID, err := r.identity(seedTo)
	if err != nil {
		return err
	}
	from, err := r.startNode(setup, r.From, address, fromID, toID.PeerID())
	if err != nil {
		return fmt.Errorf("start the node on %s: %w", r.From, err)
	}
	to, err := r.startNode(setup, r.To, address, toID, fromID.PeerID())
	if err != nil {
		return fmt.Errorf("start the node on %s: %w", r.To, err)
	}
	for name, n := range map[string]*overlay.Node{r.From: from, r.To: to} {
		if err := n.Ready(setup); err != nil {
			return fmt.Errorf("register the node on %s: %w", name, err)
		}
	}
	cancel()

	receiver, err := r.listen(to)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", r.To, err)
	}
	return r.send(ctx, from, to, receiver, o)
}

// startRendezvous runs a server that serves everybody, and returns its address.
func (r *running) startRendezvous(ctx context.Context) (string, error) {
	host := r.network.Host(r.Rendezvous)
	if host == nil {
		return "", fmt.Errorf("the scenario has no host %q", r.Rendezvous)
	}
	id, err := r.identity(seedServer)
	if err != nil {
		return "", err
	}
	listen, err := host.ListenPacket(ctx, rendezvousPort)
	if err != nil {
		return "", err
	}
	alternate, err := host.ListenPacket(ctx, rendezvousPort+1)
	if err != nil {
		listen.Close()
		return "", err
	}
	var other []net.PacketConn
	if second := r.network.Host(r.secondAddress()); second != nil {
		for _, port := range []uint16{rendezvousPort, rendezvousPort + 1} {
			pc, err := second.ListenPacket(ctx, port)
			if err != nil {
				return "", err
			}
			other = append(other, pc)
		}
	}
	s, err := server.New(server.Config{
		Identity:  id,
		Listen:    []net.PacketConn{listen},
		Alternate: []net.PacketConn{alternate},
		Other:     other,
		Mode:      server.Open,
	})
	if err != nil {
		return "", err
	}
	r.onClose(s.Close)
	address := netip.AddrPortFrom(host.Addr(), rendezvousPort).String() + "#" + id.PeerID().String()
	r.tell(event{Host: r.Rendezvous, Kind: "rendezvous-start", Detail: address})
	return address, nil
}

// secondAddress returns the name of the rendezvous's further link, on which it
// helps to discover the behavior of NATs; empty: it has none.
func (x transfer) secondAddress() string {
	for _, h := range x.Scenario.Hosts {
		if h.Of == x.Rendezvous {
			return h.Name
		}
	}
	return ""
}

// startNode runs a node that admits one peer.
func (r *running) startNode(ctx context.Context, name, address string, id *ri2n.Identity, peer ri2n.PeerID) (*overlay.Node, error) {
	links, err := r.links(ctx, name)
	if err != nil {
		return nil, err
	}
	n, err := overlay.Start(context.WithoutCancel(ctx), overlay.Config{
		Identity:   id,
		Rendezvous: address,
		Allow:      []ri2n.PeerID{peer},
		Links:      links,
	})
	if err != nil {
		return nil, err
	}
	if r.Events {
		events, cancel := context.WithCancel(context.Background())
		ch := n.Events(events)
		r.events.Go(func() {
			for e := range ch {
				r.tell(eventOf(name, e))
			}
		})
		r.onClose(func() error { cancel(); return nil })
	}
	r.onClose(n.Close)
	r.tell(event{Host: name, Kind: "node-start", Detail: fmt.Sprintf("%v on %v", id.PeerID().Short(), links[0].Conn.LocalAddr())})
	return n, nil
}

// links binds a socket on a host, and one on each of its further links.
func (r *running) links(ctx context.Context, name string) (links []overlay.LinkConfig, err error) {
	defer func() {
		if err != nil {
			for _, l := range links {
				l.Conn.Close()
			}
		}
	}()
	names := []string{name}
	for _, h := range r.Scenario.Hosts {
		if h.Of == name {
			names = append(names, h.Name)
		}
	}
	for i, name := range names {
		host := r.network.Host(name)
		if host == nil {
			return links, fmt.Errorf("the scenario has no host %q", name)
		}
		pc, err := host.ListenPacket(ctx, 0)
		if err != nil {
			return links, err
		}
		link := "uplink"
		if i > 0 {
			link = name
		}
		links = append(links, overlay.LinkConfig{Name: link, Conn: pc, OwnPrefixes: []netip.Prefix{r.prefixOf(host)}, Listen: func() (net.PacketConn, error) {
			return host.ListenPacket(context.Background(), 0)
		}})
	}
	return links, nil
}

// prefixOf returns the prefix of a host's own network.
func (r *running) prefixOf(host netsim.Host) netip.Prefix {
	prefix, _ := host.Addr().Prefix(24)
	addresses, err := r.Scenario.Addresses()
	if err != nil {
		return prefix
	}
	for _, h := range r.Scenario.Hosts {
		if h.Name == host.Name() && h.Parent != "" {
			return addresses[h.Parent].Inside
		}
	}
	return prefix
}

func eventOf(host string, e overlay.Event) event {
	out := event{Host: host, Kind: e.Kind, Detail: e.Detail}
	if e.Path != nil {
		out.Path, out.State, out.Reason = e.Path.Kind, e.Path.State, e.Path.Reason
		if e.Path.Remote.IsValid() {
			out.Remote = e.Path.Remote.String()
		}
	}
	return out
}

// Purposes of the seed's random bytes.
const (
	seedContent = iota
	seedServer
	seedFrom
	seedTo
)

// random returns bytes that depend on the scenario's seed and on their purpose.
func (x transfer) random(purpose byte) *rand.ChaCha8 {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], x.Scenario.Seed)
	key[8] = purpose
	return rand.NewChaCha8(key)
}

// identity returns a key that the seed decides, so that equal seeds have equal
// peer IDs. The keys are for nobody: they end with the network.
func (x transfer) identity(purpose byte) (*ri2n.Identity, error) {
	return ri2n.NewIdentity(x.random(purpose))
}

// A receiver takes one connection: a length, that many bytes, and answers with
// their SHA-256.
type receiver struct {
	target    string // file; empty: none
	firstByte atomic.Pointer[time.Time]
	count     int64  // bytes that arrived; valid once done is closed
	sum       string // of them
	err       error
	done      chan struct{}
}

// listen has the receiving node wait for the connection.
func (r *running) listen(to *overlay.Node) (*receiver, error) {
	ln, err := to.Listen("tcp", fmt.Sprintf(":%d", servicePort))
	if err != nil {
		return nil, err
	}
	rc := &receiver{target: r.Target, done: make(chan struct{})}
	go func() {
		defer close(rc.done)
		conn, err := ln.Accept()
		if err != nil {
			rc.err = err
			return
		}
		rc.err = rc.receive(conn)
	}()
	r.onClose(func() error {
		err := ln.Close()
		<-rc.done
		return err
	})
	return rc, nil
}

func (rc *receiver) receive(conn net.Conn) error {
	defer conn.Close()
	var length [8]byte
	if _, err := io.ReadFull(conn, length[:1]); err != nil {
		return err
	}
	now := time.Now()
	rc.firstByte.Store(&now)
	if _, err := io.ReadFull(conn, length[1:]); err != nil {
		return err
	}
	sum := sha256.New()
	var to io.Writer = sum
	var file *os.File
	if rc.target != "" {
		var err error
		if file, err = os.Create(rc.target); err != nil {
			return err
		}
		defer file.Close()
		to = io.MultiWriter(sum, file)
	}
	n, err := io.CopyBuffer(to, io.LimitReader(conn, int64(binary.BigEndian.Uint64(length[:]))), make([]byte, 64<<10))
	rc.count, rc.sum = n, hexSum(sum)
	if err != nil {
		return err
	}
	if file != nil {
		if err := file.Close(); err != nil {
			return err
		}
	}
	_, err = conn.Write(sum.Sum(nil))
	if err != nil {
		return err
	}
	// The dialer closes first, once it has the answer.
	_, err = io.Copy(io.Discard, conn)
	return err
}

// content returns what is sent, and how much that is.
func (x transfer) content() (io.ReadCloser, int64, error) {
	if x.Source == "" {
		return io.NopCloser(io.LimitReader(x.random(seedContent), x.Bytes)), x.Bytes, nil
	}
	f, err := os.Open(x.Source)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// send dials, sends everything, and waits until it is known which path the two
// nodes have.
func (r *running) send(ctx context.Context, from, to *overlay.Node, rc *receiver, o *outcome) error {
	content, size, err := r.content()
	if err != nil {
		return err
	}
	defer content.Close()

	ctx, cancel := context.WithTimeout(ctx, transferTime+time.Duration(size/slowest)*time.Second)
	defer cancel()
	dialed := time.Now()
	conn, err := from.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", to.PeerID(), servicePort))
	if err != nil {
		return fmt.Errorf("dial %s: %w", r.To, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
		return fmt.Errorf("send to %s: %w", r.To, err)
	}
	o.FirstByte = time.Since(dialed)
	r.tell(event{Host: r.From, Kind: "first-byte", Detail: "written after " + milliseconds(o.FirstByte)})

	peer, err := from.Connect(ctx, to.PeerID())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", r.To, err)
	}
	direct := make(chan directResult, 1)
	decision, cancelDecision := context.WithTimeout(ctx, decisionTime)
	defer cancelDecision()
	go func() {
		_, err := peer.WaitDirect(decision)
		direct <- directResult{time.Since(dialed), err}
	}()
	// The goroutine ends with decision; nobody else may outlive this call.
	waited := false
	wait := func() directResult {
		waited = true
		return <-direct
	}
	defer func() {
		if !waited {
			cancelDecision()
			wait()
		}
	}()

	sum := sha256.New()
	if _, err := io.CopyBuffer(conn, io.TeeReader(content, sum), make([]byte, 64<<10)); err != nil {
		return fmt.Errorf("send to %s: %w", r.To, err)
	}
	o.SHA256 = hexSum(sum)
	answer := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("wait for the hash of %s: %w", r.To, err)
	}
	o.Done = time.Since(dialed)
	conn.Close()
	<-rc.done
	if at := rc.firstByte.Load(); at != nil {
		o.FirstAtPeer = at.Sub(dialed)
	}
	o.Bytes, o.Arrived = rc.count, rc.sum
	o.Intact = rc.count == size && rc.sum == o.SHA256 && hex.EncodeToString(answer) == o.SHA256
	r.tell(event{Host: r.To, Kind: "received", Detail: fmt.Sprintf("%d bytes after %s", rc.count, milliseconds(o.Done))})
	if !o.Intact {
		return fmt.Errorf("%s has %d bytes with SHA-256 %s, want %d with %s", r.To, rc.count, rc.sum, size, o.SHA256)
	}

	if d := wait(); d.err == nil {
		o.Direct = d.at
	}
	r.settle(ctx, from, to, o)
	if o.Path == "" {
		return fmt.Errorf("the node on %s shows no path to %s", r.From, r.To)
	}
	return nil
}

type directResult struct {
	at  time.Duration
	err error
}

// settle fills in how both ends see the path, once they agree or agreeTime has
// passed.
func (r *running) settle(ctx context.Context, from, to *overlay.Node, o *outcome) {
	look := func() bool {
		here, ok1 := pathOf(from, to.PeerID())
		there, ok2 := pathOf(to, from.PeerID())
		o.Path, o.Reason, o.Advice = here.Kind, here.Reason, here.Advice
		o.PeerPath, o.PeerReason = there.Kind, there.Reason
		return ok1 && ok2 && o.Path == o.PeerPath && o.Reason == o.PeerReason && (o.Path == "direct") == (o.Direct > 0)
	}
	deadline := time.Now().Add(agreeTime)
	for !look() && ctx.Err() == nil && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
}

// pathOf returns the path on which n sends to peer.
func pathOf(n *overlay.Node, peer ri2n.PeerID) (overlay.PathStatus, bool) {
	for _, p := range n.Status().Peers {
		if p.ID == peer {
			return p.Path, true
		}
	}
	return overlay.PathStatus{}, false
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// milliseconds prints a duration for people.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

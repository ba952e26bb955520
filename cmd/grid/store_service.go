package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/gridapi/store"
	"github.com/instantgrid/instantgrid/gridapi/store/directory"
	"github.com/instantgrid/instantgrid/gridapi/store/durable"
	"github.com/instantgrid/instantgrid/gridapi/store/swarm"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Ports of the overlay on which the store's data travel; the policy opens them.
const (
	portStoreChunks = 30
	portStoreNames  = 31
)

const (
	// storeKeyLook is how often the agent looks for a key file that is not there
	// yet, and storeKeyAsk how often it asks other members for the key.
	storeKeyLook = time.Second
	storeKeyAsk  = 10 * time.Second
	// membersRefresh is how often the list of members is renewed.
	membersRefresh = 15 * time.Second
)

// A storeService is the agent's part in the grid's store.
type storeService struct {
	node     *overlay.Node
	log      *slog.Logger
	stateDir string
	dir      string
	keyFile  string
	quota    int64 // bytes; zero: there is none
	patience time.Duration

	directory *directory.Directory
	presence  *storePresence

	mu      sync.Mutex   // guards what follows
	store   *store.Store // nil: there is no key yet
	swarm   *swarm.Swarm
	durable *durableService
	failure error // why it could not be opened
	members []swarm.Member
	sites   map[string]string // by member
}

// start opens the store, or looks for its key until it is there.
func (x *storeService) start(ctx context.Context, running *sync.WaitGroup) error {
	x.sites = make(map[string]string)
	x.presence = newStorePresence(func(ctx context.Context, member string) error {
		c, err := x.dial(ctx, member, portStoreChunks)
		if err == nil {
			c.Close()
		}
		return err
	})
	x.directory = &directory.Directory{
		Dial:    func(ctx context.Context, member string) (net.Conn, error) { return x.dial(ctx, member, portStoreNames) },
		Members: x.others,
	}
	running.Go(func() { x.watchMembers(ctx) })
	k, err := readStoreKey(x.keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		running.Go(func() { x.awaitKey(ctx, running) })
		return nil
	}
	if err != nil {
		return err
	}
	return x.open(ctx, running, k)
}

// awaitKey waits for somebody to make the key file, and meanwhile asks other
// members for the key.
func (x *storeService) awaitKey(ctx context.Context, running *sync.WaitGroup) {
	x.log.Info("the store waits for its key; members who have it are asked", "file", x.keyFile)
	look := time.NewTicker(storeKeyLook)
	defer look.Stop()
	var asked time.Time
	for {
		k, err := readStoreKey(x.keyFile)
		if errors.Is(err, fs.ErrNotExist) && time.Since(asked) >= storeKeyAsk {
			if k, err = x.directory.Key(ctx); err == nil {
				err = writeStoreKey(x.keyFile, k)
			}
			asked = time.Now()
		}
		if err == nil {
			err = x.open(ctx, running, k)
			if err != nil {
				x.log.Error("the store does not open", "err", err)
			}
			x.mu.Lock()
			x.failure = err
			x.mu.Unlock()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// open opens the store and serves it to members.
func (x *storeService) open(ctx context.Context, running *sync.WaitGroup, k store.Key) error {
	id, err := overlay.LoadIdentity(x.stateDir)
	if err != nil {
		return err
	}
	s, err := store.Open(store.Config{
		Dir: x.dir, Key: k, Quota: x.quota, Signer: ed25519.NewKeyFromSeed(id.Seed()), Verify: x.verify, Logger: x.log,
	})
	if err != nil {
		return &cli.Error{Object: "store in " + x.dir, Cause: err.Error(), Next: "see who uses it, or keep the store elsewhere: store.directory", Err: err}
	}
	d, err := openDurable(x, s, k)
	if err != nil {
		s.Close()
		return err
	}
	w := swarm.New(swarm.Config{
		Self: x.self(), Holdings: s.Holdings(), Members: x.present, Keeper: d.ledger, Logger: x.log,
		Dial: func(ctx context.Context, member string) (net.Conn, error) {
			return x.dial(ctx, member, portStoreChunks)
		},
		Identify: func(c net.Conn) (string, error) {
			if peer, ok := overlay.PeerOf(c); ok {
				if m := x.node.MemberOf(peer); m != nil {
					return m.Name, nil
				}
			}
			return "", errors.New("no member of the grid")
		},
	})
	if err := d.begin(w); err != nil {
		w.Close()
		d.close()
		s.Close()
		return err
	}
	s.Connect(&durable.Fetcher{Source: w, Restore: d.restore, Has: s.Holdings().Has}, x.directory)
	chunks, err := x.node.Listen("tcp", ":"+portText(portStoreChunks))
	if err != nil {
		w.Close()
		d.close()
		s.Close()
		return err
	}
	names, err := x.node.Listen("tcp", ":"+portText(portStoreNames))
	if err != nil {
		chunks.Close()
		w.Close()
		d.close()
		s.Close()
		return err
	}
	running.Go(func() {
		if err := w.Serve(chunks); err != nil && !errors.Is(err, net.ErrClosed) {
			x.log.Warn("the store is not served any more", "err", err)
		}
	})
	running.Go(func() { d.guard.Run(ctx) })
	running.Go(func() { d.watchHolders(ctx) })
	running.Go(func() { directory.Serve(names, s, func() (store.Key, bool) { return k, true }, x.log) })
	x.mu.Lock()
	x.store, x.swarm, x.durable = s, w, d
	x.mu.Unlock()
	x.log.Info("the store is open", "file", x.dir, "bytes", s.Holdings().Status().Live)
	return nil
}

func (x *storeService) close() {
	x.mu.Lock()
	s, w, d := x.store, x.swarm, x.durable
	x.mu.Unlock()
	if s == nil {
		return
	}
	w.Close()
	d.close()
	if err := s.Close(); err != nil {
		x.log.Warn("the store is not closed as it should be", "err", err)
	}
}

// need returns the store, or says why there is none.
func (x *storeService) need() (*store.Store, *swarm.Swarm, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.quota == 0:
		return nil, nil, &cli.Error{Object: "store", Cause: "this agent keeps none", Next: "give it some room: grid up --store 10240, or store.quota in config.yaml"}
	case x.failure != nil:
		return nil, nil, x.failure
	case x.store == nil:
		return nil, nil, &cli.Error{
			Object: "store", Cause: "it has no key yet, and no member that can be reached gives it one",
			Next: "make one, on one computer of the grid: grid store key --new; others get it through their ports 30 and 31",
		}
	}
	return x.store, x.swarm, nil
}

func (x *storeService) dial(ctx context.Context, member string, port uint16) (net.Conn, error) {
	return x.node.DialContext(ctx, "tcp", net.JoinHostPort(member, portText(port)))
}

// self is our name in the grid, or in none.
func (x *storeService) self() string {
	if g := x.node.Status().Grid; g != nil && g.Self != nil {
		return g.Self.Name
	}
	return x.node.PeerID().String()
}

// watchMembers keeps the list of members, and which of them share a network.
func (x *storeService) watchMembers(ctx context.Context) {
	events, err := x.node.Watch(ctx)
	if err != nil {
		events = nil // no grid: nobody to share with
	}
	refresh := time.NewTicker(membersRefresh)
	defer refresh.Stop()
	x.others(ctx)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			x.presence.saw(e)
			x.mu.Lock()
			x.sites[e.Name] = e.Site
			x.mu.Unlock()
			x.others(ctx)
		case <-refresh.C:
			x.others(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// others asks who is in the grid, and returns the names of the others.
func (x *storeService) others(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, memberTime)
	defer cancel()
	list, err := x.node.Members(ctx)
	if err != nil {
		list = x.node.KnownMembers()
	}
	var members []swarm.Member
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range list {
		site := x.sites[m.Name]
		if m.Self {
			site = x.node.Site() // of ourselves no event tells
		} else {
			names = append(names, m.Name)
		}
		members = append(members, swarm.Member{Name: m.Name, Site: site})
	}
	x.members = members
	return names
}

// present returns the members as they were last known.
func (x *storeService) present() []swarm.Member {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.members
}

// verify lets members say what names mean, and of NAME/... only the member NAME.
func (x *storeService) verify(name string, signer ed25519.PublicKey) error {
	peer := ri2n.PeerIDOf(signer)
	member := ""
	if peer == x.node.PeerID() {
		member = x.self()
	} else if m := x.node.MemberOf(peer); m != nil {
		member = m.Name
	} else {
		for _, m := range x.node.KnownMembers() {
			if m.Peer == peer {
				member = m.Name
			}
		}
	}
	if member == "" {
		return errors.New("the signer is no member of the grid that is known here")
	}
	if owner, _, owned := strings.Cut(name, "/"); owned && owner != member {
		return fmt.Errorf("it is for the member %s, and %s has signed it", owner, member)
	}
	return nil
}

func readStoreKey(file string) (k store.Key, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	if k, err = store.ParseKey(string(b)); err != nil {
		return k, &cli.Error{Object: file, Cause: "it does not hold a key of a store", Next: "copy it from another member: grid store key --show there, grid store key --set here", Code: cli.ExitUsage, Err: err}
	}
	return k, nil
}

// writeStoreKey makes a key file, and never replaces one.
func writeStoreKey(file string, k store.Key) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, k.Encode())
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(file)
	}
	return err
}

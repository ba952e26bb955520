package sim

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// A Grid is a world whose hosts are nodes of one grid.
type Grid struct {
	*World

	// Nodes are the nodes by host. The entry of a liar is the honest node that
	// it pretends to be.
	Nodes []*routing.Node

	// Config is that of the nodes added from now on; Self, Messenger, Verify
	// and Rand are set for each.
	Config routing.Config

	members map[routing.PeerID]int
	liars   map[int]Liar
}

// A Liar decides what happens to a message for host i instead of its node:
// it returns true when it has dealt with it.
type Liar func(now time.Time, from int, msg []byte) bool

// NewGrid returns a grid without nodes.
func NewGrid(seed uint64) *Grid {
	return &Grid{World: NewWorld(seed), members: make(map[routing.PeerID]int), liars: make(map[int]Liar)}
}

// proofSize is that of the proofs that simulated members carry: about that of
// a ledger's record.
const proofSize = 288

// MakeMember returns a member that no other call with the same number does.
func MakeMember(number uint64) *routing.Member {
	return MemberOf(routing.PeerIDOf(NodeKey(number).Public().(ed25519.PublicKey)))
}

// NodeKey returns the node key of the member of that number.
func NodeKey(number uint64) ed25519.PrivateKey {
	seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("node"), number))
	return ed25519.NewKeyFromSeed(seed[:])
}

// MemberOf returns the member that peer is once the ledger has recorded it.
func MemberOf(peer routing.PeerID) *routing.Member {
	nonce := routing.Nonce(sha256.Sum256(append([]byte("nonce"), peer[:]...)))
	return routing.NewMember(peer, nonce, proof(peer, nonce))
}

// proof stands for the ledger's signature.
func proof(peer routing.PeerID, nonce routing.Nonce) []byte {
	sum := sha256.Sum256(append(append([]byte("proof"), peer[:]...), nonce[:]...))
	return slices.Repeat(sum[:], proofSize/len(sum))
}

// errImpostor is why a member is refused.
var errImpostor = errors.New("sim: not a member")

// verify plays the overlay's check of a record.
func (g *Grid) verify(m *routing.Member) error {
	i, ok := g.members[m.Peer]
	if !ok || g.Nodes[i].Self().Nonce != m.Nonce || string(g.Nodes[i].Self().Proof) != string(m.Proof) {
		return errImpostor
	}
	return nil
}

// AddNode adds a node for m and returns its index. It knows nobody yet.
func (g *Grid) AddNode(m *routing.Member) int {
	h := &Host{}
	i := g.Add(h)
	cfg := g.Config
	cfg.Self, cfg.Messenger, cfg.Verify = m, messenger{g, i}, g.verify
	cfg.Rand = rand.New(rand.NewPCG(g.rand.Uint64(), uint64(i)))
	n, err := routing.New(cfg)
	if err != nil {
		panic(fmt.Sprintf("sim: a node's configuration is complete: %v", err))
	}
	g.Nodes = append(g.Nodes, n)
	g.members[m.Peer] = i
	h.Machines = append(h.Machines, n)
	h.Receive = func(now time.Time, from int, msg []byte) {
		if lie := g.liars[i]; lie != nil && lie(now, from, msg) {
			return
		}
		n.Receive(now, g.Nodes[from].Self(), msg)
	}
	return i
}

// Lie makes host i answer as l says from now on.
func (g *Grid) Lie(i int, l Liar) { g.liars[i] = l }

// Host returns host i.
func (g *Grid) Host(i int) *Host { return g.hosts[i] }

// Index returns the host of peer.
func (g *Grid) Index(peer routing.PeerID) (int, bool) {
	i, ok := g.members[peer]
	return i, ok
}

// A messenger sends for host i.
type messenger struct {
	g *Grid
	i int
}

func (m messenger) Send(to *routing.Member, msg []byte) {
	if j, ok := m.g.members[to.Peer]; ok {
		m.g.Send(m.i, j, msg)
	}
}

// Grow adds nodes until the grid has n of them, each of which bootstraps from
// one that is there already; batch of them join at the same time. It returns
// the number of those that could not.
func (g *Grid) Grow(n, batch int) (failed int) {
	for len(g.Nodes) < n && !g.stopped() {
		joining, old := 0, len(g.Nodes)
		for range min(batch, max(1, old), n-old) {
			i := g.AddNode(MakeMember(uint64(len(g.Nodes))))
			if old == 0 {
				continue
			}
			joining++
			seed := g.Nodes[g.rand.IntN(old)].Self()
			g.Nodes[i].Bootstrap(g.now, []*routing.Member{seed}, func(now time.Time, err error) {
				joining--
				if err != nil {
					failed++
				}
			})
			g.Touch(i)
		}
		g.RunUntil(5*time.Minute, func() bool { return joining == 0 })
		failed += joining
	}
	return failed
}

// Nearest returns the living host nearest to key that is no liar, found by
// looking at all of them; except is left out.
func (g *Grid) Nearest(key routing.Key, except int) int {
	best := -1
	for i, n := range g.Nodes {
		if i == except || g.hosts[i].dead || g.liars[i] != nil {
			continue
		}
		if best < 0 || key.Xor(n.Self().Position()).Compare(key.Xor(g.Nodes[best].Self().Position())) < 0 {
			best = i
		}
	}
	return best
}

// RandomKey returns a key from anywhere in the key space.
func (g *Grid) RandomKey() (k routing.Key) {
	for i := 0; i < len(k); i += 8 {
		binary.BigEndian.PutUint64(k[i:], g.rand.Uint64())
	}
	return k
}

// RandomAlive returns a living, honest host.
func (g *Grid) RandomAlive() int {
	for { // somebody always is
		if i := g.rand.IntN(len(g.hosts)); !g.hosts[i].dead && g.liars[i] == nil {
			return i
		}
	}
}

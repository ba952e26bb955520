package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	maxRemembered        = 1024 // peers
	maxRememberedForPeer = 3
	// rememberedLife is how long an address is worth a packet.
	rememberedLife = 30 * 24 * time.Hour
)

// A rememberedTable holds the transport addresses where peers were last
// reached directly, so that a dial may try them beside the relay, and instead
// of it when the rendezvous is away. It is safe for concurrent use.
type rememberedTable struct {
	dir    directory
	damage error // what loading found; nil: nothing

	mu    sync.Mutex // guards what follows
	peers map[ri2n.PeerID][]rememberedAddr
	dirty bool
}

type rememberedAddr struct {
	addr netip.AddrPort
	at   time.Time // when it last worked
}

// loadRemembered reads the table of a directory. Damaged lines are left out:
// they cost a round trip, not more.
func loadRemembered(dir directory, now time.Time) (*rememberedTable, error) {
	t := &rememberedTable{dir: dir, peers: make(map[ri2n.PeerID][]rememberedAddr)}
	if dir == "" {
		return t, nil
	}
	err := dir.lines(fileAddresses, func(line string) error {
		id, a, err := parseRemembered(line)
		if err != nil {
			t.damage = &StateError{File: dir.path(fileAddresses), Err: errDamaged, Harmless: true}
		} else if now.Sub(a.at) < rememberedLife {
			t.put(id, a)
		}
		return nil
	})
	t.dirty = false
	return t, err
}

// A line is: PEERID ADDRESS SECONDS, the last since 1970.
func appendRemembered(b []byte, id ri2n.PeerID, a rememberedAddr) []byte {
	return fmt.Appendf(b, "%s %s %d\n", id, a.addr, a.at.Unix())
}

func parseRemembered(line string) (id ri2n.PeerID, a rememberedAddr, err error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return id, a, errors.New("overlay: not a remembered address")
	}
	if id, err = ri2n.ParsePeerID(fields[0]); err != nil {
		return id, a, err
	}
	if a.addr, err = netip.ParseAddrPort(fields[1]); err != nil {
		return id, a, err
	}
	seconds, err := strconv.ParseInt(fields[2], 10, 48)
	a.at = time.Unix(seconds, 0)
	return id, a, err
}

// add notes that id was reached at addr.
func (t *rememberedTable) add(now time.Time, id ri2n.PeerID, addr netip.AddrPort) {
	if !addr.IsValid() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(id, rememberedAddr{addr: addr, at: now})
}

// put keeps the newest first. A full table loses the peer of longest ago.
func (t *rememberedTable) put(id ri2n.PeerID, a rememberedAddr) {
	list := slices.DeleteFunc(t.peers[id], func(x rememberedAddr) bool { return x.addr == a.addr })
	list = append(list, a)
	slices.SortStableFunc(list, func(x, y rememberedAddr) int { return y.at.Compare(x.at) })
	t.peers[id] = list[:min(len(list), maxRememberedForPeer)]
	t.dirty = true
	if len(t.peers) <= maxRemembered {
		return
	}
	oldest := id
	for other, l := range t.peers {
		if l[0].at.Before(t.peers[oldest][0].at) {
			oldest = other
		}
	}
	delete(t.peers, oldest)
}

// of returns where id was reached, the newest first.
func (t *rememberedTable) of(id ri2n.PeerID) []netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []netip.AddrPort
	for _, a := range t.peers[id] {
		list = append(list, a.addr)
	}
	return list
}

// count returns how many addresses of id are known.
func (t *rememberedTable) count(id ri2n.PeerID) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.peers[id])
}

// save writes the table if it has changed.
func (t *rememberedTable) save() error {
	t.mu.Lock()
	if !t.dirty || t.dir == "" {
		t.mu.Unlock()
		return nil
	}
	t.dirty = false
	ids := make([]ri2n.PeerID, 0, len(t.peers))
	for id := range t.peers {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b ri2n.PeerID) int { return strings.Compare(a.String(), b.String()) })
	var b []byte
	for _, id := range ids {
		for _, a := range t.peers[id] {
			b = appendRemembered(b, id, a)
		}
	}
	t.mu.Unlock()
	return t.dir.write(fileAddresses, b)
}

package overlay

import (
	"crypto/ed25519"
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

var idleMembers = flag.Int("idle-members", 3, "members that TestIdle connects to a node")

// What a node costs that does nothing: packets and bytes each minute, of all
// its sessions, and memory for the members that it knows of. The figures
// of docs/overlay.md are from: go test ./overlay -run TestIdle -idle-members 50 -v
func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		members := *idleMembers
		c := newCrowd(t, members+1, func(_ int, cfg *Config) { cfg.Routing.MaxSessions = 4 * members }, access)
		n := c.nodes[0]
		for _, other := range c.nodes[1:] {
			if _, err := n.Connect(t.Context(), other.PeerID()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		count := func() (sent, received, bytes uint64) {
			for _, p := range n.Status().Peers {
				for _, a := range n.peerByID(p.ID).all() {
					for _, path := range a.session.Paths() {
						sent += path.PacketsSent
						received += path.PacketsReceived
						bytes += path.BytesSent + path.BytesReceived
					}
				}
			}
			return sent, received, bytes
		}
		sent, received, bytes := count()
		liveness := n.Status().Routing.Counters.Liveness.Sent
		onWire := c.wires[0].sent.Load()
		time.Sleep(time.Minute)
		sent1, received1, bytes1 := count()
		s := n.Status().Routing
		t.Logf("%d sessions, a minute: %d packets sent, %d received, %d bytes of UDP payload; %d messages of the failure detector; %d packets sent by the node in all",
			len(s.Sessions), sent1-sent, received1-received, bytes1-bytes, s.Counters.Liveness.Sent-liveness, c.wires[0].sent.Load()-onWire)
		if len(s.Sessions) != members {
			t.Errorf("%d sessions, want %d", len(s.Sessions), members)
		}
		// Nothing but keepalives: from either side one each 15 s on each path, of
		// which a session has two, and the acknowledgement of the other's.
		if got := sent1 - sent; got > uint64(20*members) {
			t.Errorf("an idle node sends %d packets a minute to %d members", got, members)
		}
		if got := s.Counters.Liveness.Sent - liveness; got != 0 {
			t.Errorf("the failure detector of an idle node sends %d messages a minute", got)
		}

		before := heap()
		known := 1000
		if raceEnabled {
			known = 50 // each takes several signatures
		}
		token, err := membership.ParseToken(c.invite(membership.InviteOptions{Uses: known}))
		if err != nil {
			t.Fatal(err)
		}
		for i := range known {
			key := ed25519.NewKeyFromSeed(identity(t, 10_000+i).Seed()).Public().(ed25519.PublicKey)
			name := fmt.Sprintf("m%d", i)
			chain, err := token.Join(key, name, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			rec := membership.SignRecord(ed25519.NewKeyFromSeed(identity(t, serverIdentity).Seed()), membership.Record{
				Grid: c.grid.ID(), Peer: ri2n.PeerIDOf(key), Invite: token.Invite.ID(), Name: name,
				Address: c.grid.Network.Addr().Next(), Issued: time.Now(), Expires: time.Now().Add(membership.RecordLife),
			})
			if _, err := n.grid.learn(time.Now(), rec.Peer, &membership.Proof{Chain: chain, Record: rec}, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if err := n.router.do(t.Context(), func(now time.Time) { n.router.routing.Met(now, memberOfRecord(rec)) }); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		after := heap()
		t.Logf("%d members known, %d in the table: %d KiB", known, n.Status().Routing.Contacts, (after-before)/1024)
		if after-before > 8<<20 {
			t.Errorf("%d members take %d bytes", known, after-before)
		}
		runtime.KeepAlive(n)
	})
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

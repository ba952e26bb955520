package overlay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/ledger"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/rendezvous/server"
	"github.com/instantgrid/instantgrid/rendezvous/state"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A gridRig is a rig whose rendezvous keeps a grid.
type gridRig struct {
	*rig
	ledger *ledger.Ledger
	admin  string // the admin's directory
	grid   *membership.Grid
}

const adminNumber = 1

func newGridRig(t *testing.T) *gridRig {
	t.Helper()
	r := newRig(t, 1, restricted, restricted)
	r.server.Close()
	return foundGrid(t, r)
}

// foundGrid makes the grid of a rig without a server.
func foundGrid(t *testing.T, r *rig) *gridRig {
	t.Helper()
	g := &gridRig{rig: r, admin: t.TempDir()}
	store, err := state.OpenBolt(filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if g.ledger, err = ledger.Open(t.Context(), ledger.Config{Store: store, Identity: identity(t, serverIdentity)}); err != nil {
		t.Fatal(err)
	}
	g.startLedger()
	code, err := g.ledger.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claim, err := ledger.ParseClaim(code)
	if err != nil {
		t.Fatal(err)
	}
	at, err := rendezvous.ParseAddress(g.address())
	if err != nil {
		t.Fatal(err)
	}
	cfg := FoundConfig{JoinConfig: g.joinConfig(g.hostA, adminNumber, g.admin), GridName: "lab", Rendezvous: []rendezvous.Address{at}, Claim: claim}
	cfg.Name = "admin"
	if _, err := Found(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, g.grid, err = admin(directory(g.admin)); err != nil {
		t.Fatal(err)
	}
	return g
}

// startLedger starts the server with the ledger.
func (g *gridRig) startLedger() {
	g.t.Helper()
	s, err := server.New(server.Config{
		Identity:  identity(g.t, serverIdentity),
		Listen:    []net.PacketConn{listenPacket(g.t, g.public, 3478)},
		Alternate: []net.PacketConn{listenPacket(g.t, g.public, 3479)},
		Mode:      server.Key,
		Ledger:    g.ledger,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.server = s
	g.t.Cleanup(func() { s.Close() })
}

func (g *gridRig) joinConfig(h netsim.Host, number int, dir string) JoinConfig {
	return JoinConfig{Dir: dir, Identity: identity(g.t, number), Suggested: "node", Link: listenPacket(g.t, h, 0)}
}

func (g *gridRig) invite(o membership.InviteOptions) string {
	g.t.Helper()
	token, err := InviteMember(g.admin, o)
	if err != nil {
		g.t.Fatal(err)
	}
	return token.Encode()
}

// join makes node number a member and returns its directory.
func (g *gridRig) join(h netsim.Host, number int, name, token string) string {
	g.t.Helper()
	dir := g.t.TempDir()
	cfg := g.joinConfig(h, number, dir)
	cfg.Name = name
	if _, err := Join(g.t.Context(), cfg, token); err != nil {
		g.t.Fatal(err)
	}
	return dir
}

func (g *gridRig) startIn(h netsim.Host, number int, dir string) *Node {
	g.t.Helper()
	return g.start(h, number, func(c *Config) { c.Dir, c.Rendezvous = dir, "" })
}

func writePolicy(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, filePolicy), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func isProblem(err error, p membership.Problem) bool {
	return errors.Is(err, &membership.Error{Problem: p})
}

// The whole story: a grid is made, two nodes join, one reaches the other by
// name as far as the policy goes, and is taken back.
func TestGrid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		token := g.invite(membership.InviteOptions{Uses: 2})
		aliceDir, bobDir := g.join(g.hostA, 2, "alice", token), g.join(g.hostB, 3, "bob", token)
		writePolicy(t, bobDir, "rules:\n  - names: [alice]\n    ports: [7000]\n")
		boss, alice, bob := g.startIn(g.homeA.Host(), adminNumber, g.admin), g.startIn(g.hostA, 2, aliceDir), g.startIn(g.hostB, 3, bobDir)
		g.ready(boss, alice, bob)
		echo(t, bob, ":7000")
		echo(t, bob, ":7001")

		c, err := alice.DialContext(t.Context(), "tcp", "bob.lab.grid:7000")
		if err != nil {
			t.Fatal(err)
		}
		says(t, c, "by name")
		if m := bob.MemberOf(alice.PeerID()); m == nil || m.Name != "alice" || m.Roles != membership.Worker {
			t.Errorf("bob sees %+v", m)
		}
		// Ports are closed unless a rule opens them, and to whom it does not name.
		for _, tt := range []struct {
			from *Node
			port string
		}{{alice, "7001"}, {boss, "7000"}} {
			x, err := tt.from.DialContext(t.Context(), "tcp", "bob:"+tt.port)
			if err != nil {
				t.Fatal(err)
			}
			_, err = x.Read(make([]byte, 1))
			var port *PortError
			if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &port) || !strings.Contains(port.Cause(), "policy") {
				t.Errorf("port %s: %v, want a refusal by policy", tt.port, err)
			}
			x.Close()
		}
		if n := bob.Status().Counters.PortsRefused; n != 2 {
			t.Errorf("%d ports refused", n)
		}
		// The policy is read again; one that makes no sense changes nothing.
		time.Sleep(2 * time.Second)
		writePolicy(t, bobDir, "rules:\n  - roles: [worker, admin]\n    ports: [7000, \"7001-7009\"]\n")
		time.Sleep(2 * houseTime)
		x, err := boss.DialContext(t.Context(), "tcp", "bob:7001")
		if err != nil {
			t.Fatal(err)
		}
		says(t, x, "opened")
		writePolicy(t, bobDir, "rules:\n  - roles: [king]\n    ports: [all]\n#  ")
		time.Sleep(2 * houseTime)
		y, err := alice.DialContext(t.Context(), "tcp", "bob:7001")
		if err != nil {
			t.Fatal(err)
		}
		says(t, y, "still open")

		list, err := boss.Members(t.Context())
		if err != nil || len(list) != 3 || list[0].Name != "admin" || !list[0].Self || list[2].Name != "bob" || !list[2].Connected {
			t.Errorf("members = %+v, %v", list, err)
		}
		var unknown *NameError
		for _, bad := range []string{"carol:1", "bob.other.grid:1", "bob_:1"} {
			if _, err := alice.DialContext(t.Context(), "tcp", bad); !errors.As(err, &unknown) {
				t.Errorf("dial %s = %v, want a NameError", bad, err)
			}
		}
		// Alice is taken back: bob learns it from the ledger.
		old, err := boss.Revocations(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		revoked, err := Revoke(g.admin, old, alice.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		if err := boss.Publish(t.Context(), revoked); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		c.SetReadDeadline(begun.Add(2 * time.Minute))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the session of a revoked member: %v", err)
		}
		t.Logf("closed after %v", time.Since(begun))
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("closed after %v, want a minute at most", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if z, err := alice.DialContext(ctx, "tcp", bob.PeerID().String()+":7000"); err == nil {
			if _, err = z.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Error("a revoked member connects again")
			}
		} else {
			t.Log(err)
		}
		says(t, x, "others go on")
	})
}

// The attackers of security.md, section 2: each has what one of the two sides
// gives away, and gets no session.
func TestNobodyIsAdmittedByOneAlone(t *testing.T) {
	now := func() time.Time { return time.Now() }
	ledgerKey := func(t *testing.T) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(identity(t, serverIdentity).Seed())
	}
	key := func(t *testing.T, n int) ed25519.PublicKey {
		return ed25519.NewKeyFromSeed(identity(t, n).Seed()).Public().(ed25519.PublicKey)
	}
	const mallory = 66
	for _, tt := range []struct {
		name string
		// forge makes the proof that the attacker shows.
		forge func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof
	}{
		{"a used-up token, and a record of its own", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			chain, err := used.Join(key(t, mallory), "mallory", now())
			if err != nil {
				t.Fatal(err)
			}
			r := *victim.Record
			r.Peer, r.Name = identity(t, mallory).PeerID(), "mallory"
			return &membership.Proof{Chain: chain, Record: membership.SignRecord(ed25519.NewKeyFromSeed(identity(t, mallory).Seed()), r)}
		}},
		{"a used-up token, and the record of its user", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			chain, err := used.Join(key(t, mallory), "alice", now())
			if err != nil {
				t.Fatal(err)
			}
			return &membership.Proof{Chain: chain, Record: victim.Record}
		}},
		{"a used-up token, and no record, as in a grid without a ledger", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			chain, err := used.Join(key(t, mallory), "mallory", now())
			if err != nil {
				t.Fatal(err)
			}
			return &membership.Proof{Chain: chain}
		}},
		{"a member's chain, and no record", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			return &membership.Proof{Chain: victim.Chain}
		}},
		{"the rendezvous: a record for a stranger, and a member's chain", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			r := *victim.Record
			r.Peer = identity(t, mallory).PeerID()
			return &membership.Proof{Chain: victim.Chain, Record: membership.SignRecord(ledgerKey(t), r)}
		}},
		{"the rendezvous: a chain of its own making", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			token, err := membership.NewInvite(zeros{}, ledgerKey(t), g.grid.Rendezvous[0], now(), membership.InviteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			chain, err := token.Join(key(t, mallory), "mallory", now())
			if err != nil {
				t.Fatal(err)
			}
			r := *victim.Record
			r.Peer, r.Name, r.Invite = identity(t, mallory).PeerID(), "mallory", token.Invite.ID()
			return &membership.Proof{Chain: chain, Record: membership.SignRecord(ledgerKey(t), r)}
		}},
		{"the rendezvous: the proof of a member", func(t *testing.T, g *gridRig, used *membership.Token, victim *membership.Proof) *membership.Proof {
			return victim
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGridRig(t)
				g.server.Close()
				g.mode = server.Open // the rendezvous helps
				g.startServer()
				g.server.Close()
				g.startLedger()
				text := g.invite(membership.InviteOptions{})
				aliceDir := g.join(g.hostA, 2, "alice", text)
				writePolicy(t, aliceDir, "rules:\n  - names: [\"*\"]\n    ports: [all]\n")
				alice := g.startIn(g.hostA, 2, aliceDir)
				g.ready(alice)
				echo(t, alice, ":7000")
				// The token is used up.
				cfg := g.joinConfig(g.hostB, mallory, t.TempDir())
				if _, err := Join(t.Context(), cfg, text); !isProblem(err, membership.InviteUsed) {
					t.Fatalf("a used token: %v", err)
				}
				used, err := membership.ParseToken(text)
				if err != nil {
					t.Fatal(err)
				}
				proof := tt.forge(t, g, used, alice.grid.ownProof())
				g.server.Close()
				g.startServer() // one that serves everybody, and keeps no ledger
				dir := t.TempDir()
				for name, b := range map[string][]byte{
					fileGrid: membership.AppendGrid(nil, g.grid), fileMembership: membership.AppendProof(nil, proof),
				} {
					if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				thief := g.start(g.hostB, mallory, func(c *Config) { c.Dir = dir })
				g.ready(thief, alice)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				c, err := thief.DialContext(ctx, "tcp", alice.PeerID().String()+":7000")
				if err == nil {
					c.SetDeadline(time.Now().Add(10 * time.Second))
					io.WriteString(c, "let me in")
					var n int
					n, err = c.Read(make([]byte, 9))
					if n > 0 || err == nil || isTimeout(err) {
						t.Fatalf("an intruder talks: %d bytes, %v", n, err)
					}
				}
				t.Log(err)
				synctest.Wait()
				if m := alice.MemberOf(thief.PeerID()); m != nil {
					t.Errorf("alice holds the intruder for %+v", m)
				}
				if s := alice.Status(); len(s.Peers) != 0 || s.Counters.ProofsRefused+s.Counters.PeersRefused == 0 {
					t.Errorf("status = %+v", s)
				}
			})
		})
	}
}

// zeros is the worst source of keys.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// Names that are taken, and hosts of one name.
func TestNamesCollide(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		token := g.invite(membership.InviteOptions{Uses: 4})
		g.join(g.hostA, 2, "alice", token)
		cfg := g.joinConfig(g.hostB, 3, t.TempDir())
		cfg.Name = "alice"
		if _, err := Join(t.Context(), cfg, token); !isProblem(err, membership.NameTaken) {
			t.Errorf("the same name: %v", err)
		}
		cfg = g.joinConfig(g.hostB, 3, t.TempDir())
		cfg.Suggested = "ALICE.example.org"
		joined, err := Join(t.Context(), cfg, token)
		if err != nil || joined.Name != "alice-2" {
			t.Errorf("a host of the same name: %+v, %v", joined, err)
		}
		// Another grid's token, in a directory that belongs to this one.
		cfg = g.joinConfig(g.hostB, adminNumber, g.admin)
		other := newToken(t, g)
		if _, err := Join(t.Context(), cfg, other); err == nil {
			t.Error("a token of a grid that the rendezvous does not know")
		} else {
			t.Log(err)
		}
	})
}

// newToken makes a token of a grid that nobody has set up.
func newToken(t *testing.T, g *gridRig) string {
	t.Helper()
	token, err := membership.NewInvite(zeros{}, ed25519.NewKeyFromSeed(identity(t, 77).Seed()), g.grid.Rendezvous[0], time.Now(), membership.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Encode()
}

// Records are renewed from half of their life, and a ledger that is down for a
// week does no harm.
func TestRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		dir := g.join(g.hostB, 2, "alice", g.invite(membership.InviteOptions{}))
		alice := g.startIn(g.hostB, 2, dir)
		g.ready(alice)
		first := alice.grid.ownProof().Record
		alice.Close()
		g.server.Close()
		time.Sleep(7*24*time.Hour + time.Hour)
		g.startLedger()
		alice = g.startIn(g.hostB, 2, dir)
		g.ready(alice)
		time.Sleep(time.Minute)
		second := alice.grid.ownProof().Record
		if !second.Issued.After(first.Issued) || second.Nonce != first.Nonce || second.Address != first.Address {
			t.Errorf("after a week: %+v, before %+v", second, first)
		}
		s := alice.Status().Grid
		if s == nil || s.Self == nil || s.Stale || s.Name != "lab" {
			t.Errorf("status = %+v", s)
		}
		// Without the rendezvous nobody confirms the list.
		g.server.Close()
		time.Sleep(staleTime + 2*time.Minute)
		if s := alice.Status().Grid; !s.Stale {
			t.Errorf("status without a rendezvous = %+v", s)
		}
	})
}

// A rendezvous that hides revocations is found out by the members who know
// better, and the sessions end all the same.
func TestHiddenRevocations(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		token := g.invite(membership.InviteOptions{Uses: 3})
		aliceDir, bobDir, carolDir := g.join(g.hostA, 2, "alice", token), g.join(g.hostB, 3, "bob", token), g.join(g.homeB.Host(), 4, "carol", token)
		all := "rules:\n  - names: [\"*\"]\n    ports: [all]\n"
		writePolicy(t, bobDir, all)
		alice, bob, carol := g.startIn(g.hostA, 2, aliceDir), g.startIn(g.hostB, 3, bobDir), g.startIn(g.homeB.Host(), 4, carolDir)
		g.ready(alice, bob, carol)
		echo(t, bob, ":7000")
		c := dial(t, alice, bob.PeerID(), 7000)
		says(t, c, "hello")
		d := dial(t, carol, bob.PeerID(), 7000)
		says(t, d, "hello")
		// Carol has the list from the admin, on paper. The ledger does not.
		list, err := Revoke(g.admin, nil, alice.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		if fresh, err := carol.adoptRevocations(time.Now(), list); !fresh || err != nil {
			t.Fatal(fresh, err)
		}
		time.Sleep(time.Second)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("the revoked member's session: %v", err)
		}
		if n := bob.Status().Counters.SessionsRevoked; n == 0 {
			t.Error("bob has not heard of it from carol")
		}
		time.Sleep(time.Minute)
		if bob.Status().Counters.ListsHidden+carol.Status().Counters.ListsHidden == 0 {
			t.Error("nobody has noticed that the ledger is behind")
		}
		// It was told, so that it is behind no more.
		if g.ledger.IsMember(time.Now(), alice.PeerID()) {
			t.Error("the ledger was not told")
		}
		says(t, d, "go on")
		// An older list is refused.
		older, err := Revoke(g.admin, nil, bob.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		if fresh, err := carol.adoptRevocations(time.Now(), older); fresh || err != nil {
			t.Errorf("a list of the same sequence: %v, %v", fresh, err)
		}
	})
}

func TestClockIsNamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		dir := g.join(g.hostB, 2, "alice", g.invite(membership.InviteOptions{}))
		time.Sleep(15 * 24 * time.Hour) // switched off for too long
		g.server.Close()
		alice := g.startIn(g.hostB, 2, dir)
		s := alice.Status().Grid
		if s == nil || s.Self != nil || !strings.Contains(s.Error, "clock") || !strings.Contains(s.Error, "record of \"alice\"") {
			t.Errorf("status = %+v", s)
		}
		g.startLedger()
		g.ready(alice)
		time.Sleep(time.Minute)
		if s := alice.Status().Grid; s.Self == nil {
			t.Errorf("not renewed: %+v", s)
		}
	})
}

func TestPolicyFiles(t *testing.T) {
	member := &membership.Member{Name: "build-7", Roles: membership.Worker, Peer: ri2n.PeerID{1}, Address: netip.MustParseAddr("100.90.0.1")}
	for _, tt := range []struct {
		name, text string
		port       uint16
		opens      bool
	}{
		{"empty", "", 1, false},
		{"no rule", "stale: refuse\n", 1, false},
		{"by role", "rules:\n- roles: [worker]\n  ports: [80]\n", 80, true},
		{"another port", "rules:\n- roles: [worker]\n  ports: [80]\n", 81, false},
		{"another role", "rules:\n- roles: [admin, relay]\n  ports: [80]\n", 80, false},
		{"by pattern", "rules:\n- names: [\"build-*\"]\n  ports: [\"1-100\"]\n", 80, true},
		{"role and name must both fit", "rules:\n- names: [\"build-*\"]\n  roles: [admin]\n  ports: [all]\n", 80, false},
		{"two rules", "rules:\n- roles: [admin]\n  ports: [all]\n- names: [build-7]\n  ports: [all]\n", 65535, true},
		{"by peer", "rules:\n- peers: [" + (ri2n.PeerID{1}).String() + "]\n  ports: [all]\n", 80, true},
		{"another peer", "rules:\n- peers: [" + (ri2n.PeerID{2}).String() + "]\n  ports: [all]\n", 80, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := parsePolicy("policy.yaml", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.opens(member, tt.port); got != tt.opens {
				t.Errorf("opens(%d) = %v", tt.port, got)
			}
		})
	}
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "rules:\n- roles: [worker]\n  port: [80]\n", "policy.yaml:3:3"},
		{"unknown role", "rules:\n- roles: [worker, king]\n  ports: [80]\n", "policy.yaml:2:19: rules[0].roles[1]: \"king\""},
		{"bad port", "rules:\n- roles: [worker]\n  ports: [80, 70000]\n", "policy.yaml:3:15: rules[0].ports[1]"},
		{"backward range", "rules:\n- roles: [worker]\n  ports: [\"9-8\"]\n", "rules[0].ports[0]"},
		{"nobody", "rules:\n- ports: [80]\n", "policy.yaml:2:3: rules[0]: it names nobody"},
		{"no port", "rules:\n- roles: [worker]\n", "policy.yaml:2:3: rules[0]: it opens no port"},
		{"bad stale", "stale: panic\n", "policy.yaml:1:8: stale"},
		{"bad peer", "rules:\n- peers: [abc]\n  ports: [80]\n", "rules[0].peers[0]"},
		{"no YAML", "rules: [\n", "policy.yaml:"},
		{"another type", "rules: 7\n", "policy.yaml:1:8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := parsePolicy("policy.yaml", []byte(tt.text))
			var e *PolicyError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parsePolicy = %+v, %v; want an error with %q", p, err, tt.want)
			}
		})
	}
}

// The example in the guide is a policy.
func TestPolicyOfTheGuide(t *testing.T) {
	b, err := os.ReadFile("../docs/membership.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), "```yaml\n")
	text, _, end := strings.Cut(text, "```")
	if !found || !end {
		t.Fatal("docs/membership.md shows no policy")
	}
	p, err := parsePolicy("docs/membership.md", []byte(strings.ReplaceAll(text, "PEERID", (ri2n.PeerID{1}).String())))
	if err != nil || len(p.rules) != 3 {
		t.Errorf("policy = %+v, %v", p, err)
	}
	if got := p.opens(&membership.Member{Name: "build-7", Roles: membership.Worker}, 8005); !got {
		t.Error("its second rule does not hold")
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("stale: refuse\nrules:\n- roles: [worker]\n  names: [\"a*\"]\n  ports: [80, \"8000-8010\", all]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePolicy("policy.yaml", b); err == nil && p == nil {
			t.Error("neither a policy nor an error")
		}
	})
}

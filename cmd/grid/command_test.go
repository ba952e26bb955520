package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/instantgrid/instantgrid/cmd/grid/internal/transfer"
	"github.com/instantgrid/instantgrid/cmd/internal/cli"
	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/overlay/discovery"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

var update = flag.Bool("update", false, "rewrite testdata")

// run executes one command line in this process, with a state directory of its
// own unless the arguments name one.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	if _, set := os.LookupEnv(rendezvousVariable); set {
		t.Setenv(rendezvousVariable, "")
	}
	var out, errOut bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetIn(strings.NewReader(""))
	code = cli.Run(t.Context(), root, args, explain)
	if strings.ContainsAny(out.String()+errOut.String(), "\r\x1b") {
		t.Errorf("grid %s: escape or carriage return off a terminal: %q %q", strings.Join(args, " "), out.String(), errOut.String())
	}
	return code, out.String(), errOut.String()
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", strings.NewReplacer(" ", "-", ",", "").Replace(name))
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", file, got)
	}
}

func peerID(fill byte) (p ri2n.PeerID) {
	for i := range p {
		p[i] = fill
	}
	return p
}

func TestTree(t *testing.T) {
	for _, owed := range cli.CheckTree(newRoot()) {
		t.Error(owed)
	}
}

// Friendliness, section 1, lines 12, 13 and 16: help without anything.
func TestHelp(t *testing.T) {
	for _, name := range []string{"", "id", "up", "down", "reload", "config example", "events", "status", "ping", "send", "recv", "netcheck", "connect", "forward", "expose", "proxy", "dns", "put", "get", "ls", "pin", "unpin", "rm", "store status", "store key"} {
		t.Run("grid "+name, func(t *testing.T) {
			code, stdout, stderr := run(t, append(strings.Fields(name), "--help")...)
			if code != cli.ExitOK || stderr != "" {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			golden(t, filepath.Join("help", strings.TrimSpace("grid "+name)+".txt"), stdout)
		})
	}
}

func TestVersionAndCompletion(t *testing.T) {
	for _, args := range []string{"version", "version --json", "completion bash", "completion zsh", "completion fish", "completion powershell"} {
		if code, stdout, stderr := run(t, strings.Fields(args)...); code != cli.ExitOK || stdout == "" || stderr != "" {
			t.Errorf("grid %s: exit code %d, %d bytes, %q", args, code, len(stdout), stderr)
		}
	}
}

func TestID(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	code, first, _ := run(t, "id", "--dir", dir)
	if _, err := ri2n.ParsePeerID(strings.TrimSpace(first)); code != cli.ExitOK || err != nil {
		t.Fatalf("id: exit code %d, %q, %v", code, first, err)
	}
	if _, again, _ := run(t, "id", "--dir", dir); again != first {
		t.Errorf("id was %q and is %q", first, again)
	}
	_, stdout, _ := run(t, "id", "--json", "--dir", dir)
	var doc struct{ Schema, Peer_id, Dir string }
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc.Schema != "instantgrid/id/1" || doc.Peer_id != strings.TrimSpace(first) || doc.Dir != dir {
		t.Errorf("id --json = %q, %v", stdout, err)
	}
	info, err := os.Stat(filepath.Join(dir, "key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
}

// TestFailures: each failure names object, cause and what to do, with the
// code of the table, in text and as one document.
func TestFailures(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	badAllow := filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(badAllow, []byte("# friends\n"+peerID(1).String()+"\nalice\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	server := rendezvous.Address{Host: "127.0.0.1", Port: 9, Peer: peerID(7)}
	old, err := rendezvous.NewToken(strings.NewReader(strings.Repeat("s", 64)), server, peerID(8), time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	peer := peerID(9).String()
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stderr string
	}{
		{"no command of ours", []string{"snd"}, cli.ExitUsage, "grid send\n"},
		{"no file", []string{"send"}, cli.ExitUsage, "grid send --help"},
		{"missing file", []string{"send", "/nonexistent/file"}, cli.ExitFailed, "/nonexistent/file: stat: no such file or directory\n  next: "},
		{"token of no life", []string{"send", "--valid", "0s", file}, cli.ExitUsage, "--valid 0s: "},
		{"a directory", []string{"send", "/"}, cli.ExitFailed, "only a regular file can be sent"},
		{"no rendezvous to send", []string{"send", file}, cli.ExitUsage, "rendezvous: none is configured\n  next: grid send FILE --rendezvous HOST:PORT#PEERID"},
		{"no rendezvous to send to a peer", []string{"send", file, peer}, cli.ExitUsage, "rendezvous: none is configured"},
		{"no rendezvous to be up", []string{"up"}, cli.ExitUsage, "rendezvous: none is configured\n  next: grid up --rendezvous"},
		{"no rendezvous to ping", []string{"ping", peer}, cli.ExitUsage, "rendezvous: none is configured"},
		{"no server to check", []string{"netcheck"}, cli.ExitUsage, "grid netcheck --stun HOST:PORT"},
		{"bad rendezvous", []string{"up", "--rendezvous", "example.org:3478"}, cli.ExitUsage, "HOST:PORT#PEERID"},
		{"bad STUN server", []string{"netcheck", "--stun", "example.org"}, cli.ExitUsage, "this is not HOST:PORT"},
		{"bad peer", []string{"ping", "alice"}, cli.ExitUsage, "alice: this is not a peer ID"},
		{"bad peer to send to", []string{"send", file, "alice"}, cli.ExitUsage, "alice: this is not a peer ID"},
		{"bad allowed peer", []string{"up", "--allow", "alice"}, cli.ExitUsage, "--allow: node.allow: \"alice\" is not a peer ID"},
		{"bad allow file", []string{"up", "--allow-file", badAllow}, cli.ExitUsage, badAllow + ":3: \"alice\" is not a peer ID"},
		{"no allow file", []string{"recv", "--allow-file", "/nonexistent"}, cli.ExitFailed, "/nonexistent"},
		{"no pings", []string{"ping", "--count", "0", peer}, cli.ExitUsage, "at least one ping"},
		{"no token", []string{"recv", "hello"}, cli.ExitUsage, "token: this is not a token"},
		{"no token on the standard input", []string{"recv", "-"}, cli.ExitUsage, "token: this is not a token"},
		{"old token", []string{"recv", old.Encode()}, cli.ExitRefused, "token: it has expired"},
		{"nobody may send", []string{"recv"}, cli.ExitUsage, "grid recv TOKEN, or grid recv --allow PEERID"},
		{"no directory", []string{"recv", "--output", "/nonexistent", "--allow", peer}, cli.ExitFailed, "/nonexistent: stat"},
		{"output is a file", []string{"recv", "--output", file, "--allow", peer}, cli.ExitUsage, "this is not a directory"},
		{"receive into a file", []string{"up", "--receive", file}, cli.ExitUsage, "this is not a directory"},
		{"no config file", []string{"up", "--config", "/nonexistent.yaml"}, cli.ExitFailed, "/nonexistent.yaml: open"},
		{"nobody to reload", []string{"reload"}, cli.ExitFailed, "agent: none runs with the state directory"},
		{"no events without an agent", []string{"events"}, cli.ExitFailed, "agent: none runs with the state directory"},
		{"events since never", []string{"events", "--since", "yesterday"}, cli.ExitUsage, "--since yesterday: "},
		{"metrics nowhere", []string{"up", "--metrics", "9479"}, cli.ExitUsage, "--metrics: metrics.listen: "},
		{"forward of no port", []string{"forward", "http", "alice:80"}, cli.ExitUsage, "http: this is neither PORT nor HOST:PORT"},
		{"forward to no port", []string{"forward", "8080", "alice"}, cli.ExitUsage, "alice: this is not NAME:PORT"},
		{"expose of no port", []string{"expose", "0"}, cli.ExitUsage, "0: this is not a port"},
		{"expose to no port", []string{"expose", "80", "--to", "web"}, cli.ExitUsage, "web: this is neither PORT nor HOST:PORT"},
		{"connect to no port", []string{"connect", "alice"}, cli.ExitUsage, "alice: this is not NAME:PORT"},
		{"proxy at no port", []string{"proxy", "--listen", "x"}, cli.ExitUsage, "x: this is neither PORT nor HOST:PORT"},
		{"dns without rendezvous", []string{"dns"}, cli.ExitUsage, "rendezvous: none is configured"},
		{"bad forward of the agent", []string{"up", "--forward", "8080"}, cli.ExitUsage, "8080: this is not LOCALPORT=NAME:PORT"},
		{"bad expose of the agent", []string{"up", "--expose", "x=y"}, cli.ExitUsage, "x: this is not a port"},
		{"no agent", []string{"status"}, cli.ExitFailed, "agent: none runs with the state directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := run(t, tt.args...)
			if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.stderr) || !strings.Contains(stderr, "\n  next: ") {
				t.Errorf("exit code %d, want %d; stdout %q; stderr %q, want %q in it", code, tt.code, stdout, stderr, tt.stderr)
			}
			if strings.Contains(stdout+stderr, old.Encode()) {
				t.Error("the token is shown")
			}
			code, stdout, _ = run(t, append([]string{"--json"}, tt.args...)...)
			var doc struct {
				Schema string
				Error  errorFields
			}
			if err := json.Unmarshal([]byte(stdout), &doc); err != nil || doc.Schema != "instantgrid/error/1" || doc.Error.ExitCode != tt.code || code != tt.code ||
				doc.Error.Object == "" || doc.Error.Cause == "" || doc.Error.Next == "" {
				t.Errorf("--json: exit code %d, %q, %v", code, stdout, err)
			}
		})
	}
}

// TestExplain walks the errors that a user may meet.
func TestExplain(t *testing.T) {
	server := rendezvous.Address{Host: "example.org", Port: 3478, Peer: peerID(1)}
	for _, tt := range []struct {
		name string
		err  error
		code int
	}{
		{"abort", &transfer.AbortError{Code: transfer.AbortSpace}, cli.ExitRefused},
		{"abort: hash", &transfer.AbortError{Code: transfer.AbortIntegrity}, cli.ExitIntegrity},
		{"abort: unknown", &transfer.AbortError{Code: 200, Text: "words"}, cli.ExitRefused},
		{"lost", &transfer.LostError{Err: io.ErrUnexpectedEOF}, cli.ExitUnreachable},
		{"protocol", &transfer.ProtocolError{Problem: "data"}, cli.ExitFailed},
		{"version", &transfer.VersionError{Ours: 1, Theirs: 2}, cli.ExitRefused},
		{"name", &transfer.NameError{Name: "x", Problem: "it is empty"}, cli.ExitFailed},
		{"space", &transfer.SpaceError{Path: "/x", Need: 5, Free: 1, Err: syscall.ENOSPC}, cli.ExitFailed},
		{"obstacle", &transfer.ObstacleError{Path: "/x", Problem: "there", Other: "y"}, cli.ExitFailed},
		{"obstacle without a way around", &transfer.ObstacleError{Path: "/x", Problem: "there"}, cli.ExitFailed},
		{"changed", &transfer.ChangedError{Path: "/x", Detail: "it ended early"}, cli.ExitFailed},
		{"integrity", &transfer.IntegrityError{Path: "/x"}, cli.ExitIntegrity},
		{"rendezvous unreachable", &rendezvous.UnreachableError{Server: server}, cli.ExitUnreachable},
		{"rendezvous refuses", &rendezvous.RefusedError{Server: server, Reason: rendezvous.ReasonNotAdmitted}, cli.ExitRefused},
		{"token used", &rendezvous.RefusedError{Server: server, Reason: rendezvous.ReasonTokenUsed}, cli.ExitRefused},
		{"peer unknown", &rendezvous.RefusedError{Server: server, Peer: peerID(2), Reason: rendezvous.ReasonUnknownPeer}, cli.ExitUnreachable},
		{"address", &rendezvous.AddressError{Text: "x", Problem: "y"}, cli.ExitUsage},
		{"token", &rendezvous.TokenError{Problem: rendezvous.TokenDamaged}, cli.ExitUsage},
		{"old token", &rendezvous.TokenError{Problem: rendezvous.TokenExpired}, cli.ExitRefused},
		{"peer refuses", &overlay.PeerError{Peer: peerID(2), Err: ri2n.ErrRefused}, cli.ExitRefused},
		{"peer silent", &overlay.PeerError{Peer: peerID(2), Err: ri2n.ErrHandshakeTimeout}, cli.ExitUnreachable},
		{"another peer", &overlay.PeerError{Peer: peerID(2), Err: &ri2n.PeerMismatchError{}}, cli.ExitRefused},
		{"token refused", &overlay.TokenRefusedError{Peer: peerID(2), Err: ri2n.ErrRefused}, cli.ExitRefused},
		{"state", &overlay.StateError{File: "/x", Err: fs.ErrPermission}, cli.ExitFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := explain(tt.err)
			if e == nil || e.Object == "" || e.Cause == "" || e.Next == "" || e.ExitCode() != tt.code || !errors.Is(e, tt.err) {
				t.Errorf("explain(%v) = %+v, want code %d", tt.err, e, tt.code)
			}
		})
	}
	if e := explain(io.EOF); e != nil {
		t.Errorf("explain(EOF) = %v", e)
	}
}

var directPath = overlay.PathStatus{Kind: overlay.KindDirect, Remote: netip.MustParseAddrPort("203.0.113.7:4000"), State: "active", RTT: 20 * time.Millisecond, MTU: 1400}

func relayPath(r punch.Reason) overlay.PathStatus {
	return overlay.PathStatus{Kind: overlay.KindRelay, State: "active", RTT: 41 * time.Millisecond, MTU: 1200, Reason: string(r), Advice: r.Advice()}
}

// TestPingVerdicts: friendliness, section 1, lines 4 and 6.
func TestPingVerdicts(t *testing.T) {
	peer := peerID(9)
	answers := func(list ...any) pingFunc {
		return func(ctx context.Context, _ ri2n.PeerID) (time.Duration, overlay.PathStatus, error) {
			a := list[0]
			if len(list) > 1 {
				list = list[1:]
			}
			if err, failed := a.(error); failed {
				return 0, overlay.PathStatus{}, err
			}
			p := a.(overlay.PathStatus)
			return p.RTT, p, nil
		}
	}
	silent := &overlay.PeerError{Peer: peer, Err: ri2n.ErrHandshakeTimeout}
	for _, tt := range []struct {
		name string
		f    pingFlags
		once pingFunc
		code int
	}{
		{"direct", pingFlags{count: 2}, answers(directPath), cli.ExitOK},
		{"relayed", pingFlags{count: 2}, answers(relayPath(punch.MappingBoth)), cli.ExitOK},
		{"one answer of two", pingFlags{count: 2}, answers(silent, directPath), cli.ExitOK},
		{"no answer", pingFlags{count: 2}, answers(silent), cli.ExitFailed},
		{"until direct", pingFlags{untilDirect: true, timeout: time.Minute}, answers(relayPath(punch.Connecting), relayPath(punch.Connecting), directPath), cli.ExitOK},
		{"until the end", pingFlags{untilDirect: true}, answers(relayPath(punch.MappingAndFiltering)), cli.ExitRelayed},
		{"until the end, silent", pingFlags{untilDirect: true}, answers(silent), cli.ExitFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, form := range []string{"txt", "json"} {
				var out, errOut bytes.Buffer
				root := &cobra.Command{Use: "grid", Short: "x"}
				root.AddCommand(&cobra.Command{Use: "ping", RunE: func(cmd *cobra.Command, _ []string) error { return ping(cmd, tt.f, peer, tt.once) }})
				root.SetOut(&out)
				root.SetErr(&errOut)
				args := []string{"ping"}
				if form == "json" {
					args = append(args, "--json")
				}
				if code := cli.Run(t.Context(), root, args, explain); code != tt.code {
					t.Errorf("%s: exit code %d, want %d", form, code, tt.code)
				}
				if form == "json" {
					var doc map[string]any
					if err := json.Unmarshal(out.Bytes(), &doc); err != nil || doc["schema"] != "instantgrid/ping/1" {
						t.Errorf("%s: %v", out.String(), err)
					}
					continue // the rest is the same as in the text
				}
				golden(t, filepath.Join("ping", tt.name+".txt"), out.String()+"---\n"+errOut.String())
			}
		})
	}
}

func TestStatusText(t *testing.T) {
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	server := rendezvous.Address{Host: "example.org", Port: 3478, Peer: peerID(1)}.String()
	for _, tt := range []struct {
		name string
		s    overlay.Status
	}{
		{"alone", overlay.Status{PeerID: peerID(2)}},
		{"not registered", overlay.Status{PeerID: peerID(2), Rendezvous: overlay.RendezvousStatus{Address: server, Error: "no answer"}}},
		{"with peers", overlay.Status{
			PeerID:     peerID(2),
			Rendezvous: overlay.RendezvousStatus{Address: server, Registered: true, RTT: 20 * time.Millisecond},
			Links: []overlay.LinkStatus{{
				Name: "udp", Local: netip.MustParseAddrPort("0.0.0.0:4000"), Outside: netip.MustParseAddrPort("198.51.100.1:4000"),
				Behavior: "endpoint-independent mapping, unknown filtering",
			}},
			Peers: []overlay.PeerStatus{
				{ID: peerID(3), Since: now.Add(-time.Hour), Path: directPath, BytesSent: 1 << 30, BytesReceived: 12},
				{ID: peerID(4), Since: now.Add(-time.Second), Path: relayPath(punch.MappingBoth)},
			},
		}},
		{"with relays", overlay.Status{
			PeerID: peerID(2),
			Relay:  &overlay.RelayStatus{Serves: true, Members: 3, Channels: 2, Bytes: 5 << 20, With: []overlay.RelayedBy{{Peer: peerID(5), Name: "carol"}}},
			Peers: []overlay.PeerStatus{{ID: peerID(3), Since: now.Add(-time.Hour), Path: overlay.PathStatus{
				Kind: overlay.KindPeerRelay, State: "active", RTT: 41 * time.Millisecond, MTU: 1437, Relay: &overlay.RelayedBy{Peer: peerID(5), Name: "carol"},
				Reason: string(punch.MappingBoth), Advice: punch.MappingBoth.Advice(),
			}}},
		}},
		{"with routing", overlay.Status{
			PeerID: peerID(2),
			Routing: &overlay.RoutingStatus{
				Contacts: 9, Nodes: 40, Objects: 3, Shortcuts: 1, MaxShortcuts: 28,
				Sessions: []overlay.RoutedSession{{Peer: peerID(3), State: overlay.MemberAlive, Shortcut: true}, {Peer: peerID(4), State: overlay.MemberSuspected}},
			},
			Peers: []overlay.PeerStatus{{ID: peerID(3), Since: now, Path: directPath}, {ID: peerID(4), Since: now, Path: directPath}},
		}},
		{"on a LAN", overlay.Status{
			PeerID: peerID(2),
			Grid: &overlay.GridStatus{
				Name: "lab", Ledgerless: true, Members: 2, NameTaken: "the name alice",
				Self: &overlay.MemberStatus{Name: "alice", Roles: membership.Worker},
			},
			LAN: &overlay.LANStatus{
				State: discovery.Worker, Name: "alice", Interfaces: []string{"eth0", "wlan0"},
				Heard: []overlay.HeardStatus{
					{Member: "bob", Heard: discovery.Heard{Peer: peerID(3), Name: "bob", Addr: netip.MustParseAddrPort("192.168.1.3:4000")}},
					{Heard: discovery.Heard{Peer: peerID(4), Name: "eve", State: discovery.Coordinator, Addr: netip.MustParseAddrPort("192.168.1.4:4000")}},
				},
			},
		}},
		{"LAN closed", overlay.Status{PeerID: peerID(2), LAN: &overlay.LANStatus{Error: "the port is taken"}}},
		{"LAN away", overlay.Status{PeerID: peerID(2), LAN: &overlay.LANStatus{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := writeStatus(&out, agentStatus{Status: tt.s}, now); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("status", tt.name+".txt"), out.String())
		})
	}
}

// TestReasons: friendliness, section 1, line 4: every reason is shown, and
// what would change it.
func TestReasons(t *testing.T) {
	for _, r := range []punch.Reason{
		punch.Connecting, punch.NoValidPair, punch.MappingAndFiltering, punch.MappingBoth, punch.UDPIsBlocked,
		punch.ProofFailed, punch.PathDied, punch.Policy, punch.PeerTooOld,
	} {
		var out bytes.Buffer
		p := overlay.PeerStatus{ID: peerID(3), Path: relayPath(r)}
		if err := writeStatus(&out, agentStatus{Status: overlay.Status{Peers: []overlay.PeerStatus{p}}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "relay ("+string(r)+")") || !strings.Contains(out.String(), r.Advice()) {
			t.Errorf("reason %s is shown as %q", r, out.String())
		}
	}
}

func TestTexts(t *testing.T) {
	for _, tt := range []struct {
		got, want string
	}{
		{sizeText(0), "0 B"},
		{sizeText(1023), "1023 B"},
		{sizeText(64 << 20), "64.0 MiB"},
		{sizeText(5 << 40), "5.0 TiB"},
		{secondsText(213 * time.Millisecond), "0.21 s"},
		{secondsText(90 * time.Second), "1m30s"},
		{rttText(41234 * time.Microsecond), "41.2 ms"},
		{pathText(overlay.PathStatus{}), "no session"},
		{pathText(directPath), "direct 203.0.113.7:4000"},
		{pathText(relayPath(punch.Policy)), "relay (policy)"},
		{pathText(overlay.PathStatus{Kind: "relay"}), "relay"},
		{pathText(overlay.PathStatus{Kind: "peer-relay", Reason: "mapping-both", Relay: &overlay.RelayedBy{Name: "carol"}}), "peer-relay through carol (mapping-both)"},
		{pathText(overlay.PathStatus{Kind: "peer-relay", Relay: &overlay.RelayedBy{Peer: peerID(1)}}), "peer-relay through " + peerID(1).String()},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestFindRendezvous(t *testing.T) {
	address := func(host string) string {
		return rendezvous.Address{Host: host, Port: 3478, Peer: peerID(1)}.String()
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, rendezvousFile), []byte("# ours\n\n"+address("file")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, flag, env, dir, want string
	}{
		{"flag first", address("flag"), address("env"), dir, "flag"},
		{"then the environment", "", address("env"), dir, "env"},
		{"then the file", "", "", dir, "file"},
		{"none", "", "", t.TempDir(), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(rendezvousVariable, tt.env)
			got, err := (&options{rendezvous: tt.flag}).findRendezvous(tt.dir)
			if err != nil || got.Host != tt.want {
				t.Errorf("found %v, %v, want host %q", got, err, tt.want)
			}
		})
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "send"}
	cmd.Flags().Bool("json", true, "")
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	r := newReport(cmd, "send", true)
	r.begin(peerID(5), time.Now().Add(-time.Second))
	r.onPath(time.Now(), relayPath(punch.Connecting))
	o := r.observer()
	o.Begin(transfer.Offer{Name: "f", Size: 100}, 40)
	o.Progress(60)
	o.Begin(transfer.Offer{Name: "f", Size: 100}, 60) // after a lost connection
	r.onPath(time.Now(), directPath)
	r.onPath(time.Now(), overlay.PathStatus{}) // between two sessions
	o.Progress(100)
	if err := r.print(transfer.Result{Name: "f", Path: "/f", Size: 100}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var events []string
	var last transferDocument
	for _, l := range lines {
		last = transferDocument{}
		if err := json.Unmarshal([]byte(l), &last); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		events = append(events, last.Event)
	}
	if want := []string{"progress", "progress", "done"}; !reflect.DeepEqual(events, want) {
		t.Errorf("events %v, want %v", events, want)
	}
	if last.Bytes != 100 || last.ResumedFrom != 40 || last.PathKind != overlay.KindDirect || last.Reason != "" ||
		last.FirstByteMS == nil || *last.FirstByteMS < 1000 || last.DirectMS == nil || last.Peer != peerID(5) {
		t.Errorf("result %+v", last)
	}
	// 60 bytes moved in this run, in a little more than a second.
	if last.BytesPerSecond > 60 || last.BytesPerSecond < 1 {
		t.Errorf("rate %v", last.BytesPerSecond)
	}
}

// Every command of the guide to membership has the flags and the number of
// arguments that it shows.
func TestCommandsOfTheGuide(t *testing.T) {
	b, err := os.ReadFile("../../docs/membership.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	blocks := strings.Split(string(b), "```")
	for i := 1; i < len(blocks); i += 2 {
		for line := range strings.Lines(blocks[i]) {
			words := strings.Fields(strings.ReplaceAll(line, "'", ""))
			if len(words) < 2 || words[0] != "grid" || !strings.HasPrefix(blocks[i], "sh\n") {
				continue
			}
			for j, w := range words {
				if w == "HOST:PORT#PEERID" {
					words[j] = "192.0.2.1:3478#" + peerID(1).String()
				}
			}
			count++
			cmd, args, err := newRoot().Find(words[1:])
			if err == nil {
				err = cmd.ParseFlags(args)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: %v", strings.TrimSpace(line), err)
			}
		}
	}
	if count < 8 {
		t.Errorf("%d commands found", count)
	}
}

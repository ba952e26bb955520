package overlay

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// startIn starts a node on the loopback interface with a directory.
func startIn(t *testing.T, dir string) (*Node, error) {
	t.Helper()
	n, err := Start(t.Context(), Config{Dir: dir})
	if err == nil {
		t.Cleanup(func() { n.Close() })
	}
	return n, err
}

func TestIdentityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	ids := make([]ri2n.PeerID, 8)
	var starts sync.WaitGroup
	for i := range ids {
		starts.Go(func() {
			n, err := Start(context.Background(), Config{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = n.PeerID()
			n.Close()
		})
	}
	starts.Wait()
	for _, id := range ids {
		if id != ids[0] || id.IsZero() {
			t.Errorf("peer IDs %v and %v from one directory", id, ids[0])
		}
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, fileKey): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode().Perm(), want, err)
		}
	}
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			t.Errorf("temporary file %s is left", f.Name())
		}
	}
}

// A damaged or exposed file stops the start, with its name and what to do.
func TestStateThatCannotBeUsed(t *testing.T) {
	id := identity(t, 1).PeerID().String()
	for _, tt := range []struct {
		name, file, content string
		mode                fs.FileMode
		object              string // what the error names, below the directory
	}{
		{"empty key", fileKey, "", 0o600, "key"},
		{"key of another program", fileKey, "-----BEGIN", 0o600, "key"},
		{"short key", fileKey, keyPrefix + "AAAA\n", 0o600, "key"},
		{"key that others may read", fileKey, string(appendKeyFile(nil, identity(t, 1))), 0o644, "key"},
		{"allow list with a name", fileAllow, "# friends\n" + id + " # anna\nbob\n", 0o600, "allow:3"},
		{"rendezvous without peer ID", fileRendezvous, "example.net:3478\n", 0o600, "rendezvous:1"},
		{"two rendezvous", fileRendezvous, strings.Repeat("192.0.2.1:3478#"+id+"\n", 2), 0o600, "rendezvous:2"},
		{"damaged invitation", filepath.Join(folderTokens, "aa"), "igtaaaa\n", 0o600, "invitations/aa"},
		{"large file", fileAllow, strings.Repeat("#\n", maxStateFile), 0o600, "allow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, tt.file)
			os.MkdirAll(filepath.Dir(file), 0o700)
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(tt.content), tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := startIn(t, dir)
			var state *StateError
			if !errors.As(err, &state) || state.Object() != filepath.Join(dir, tt.object) || state.Next() == "" {
				t.Errorf("Start = %v, want a StateError about %s", err, tt.object)
			}
			if tt.file == fileKey && len(tt.content) > 20 && strings.Contains(err.Error(), tt.content[18:]) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// No single character of a key file can change without the file being refused.
func TestDamagedKeyIsNobodyElses(t *testing.T) {
	whole := appendKeyFile(nil, identity(t, 1))
	if id, err := parseKeyFile(whole); err != nil || id.PeerID() != identity(t, 1).PeerID() {
		t.Fatalf("the whole file: %v", err)
	}
	for i := range whole {
		for _, c := range []byte("AbZ7/ \n1") {
			damaged := bytes.Clone(whole)
			if damaged[i] = c; bytes.Equal(damaged, whole) {
				continue
			}
			if id, err := parseKeyFile(damaged); err == nil && id.PeerID() != identity(t, 1).PeerID() {
				t.Errorf("character %d as %q makes %s", i, c, id.PeerID().Short())
			}
		}
	}
	for n := range whole {
		if _, err := parseKeyFile(whole[:n]); err == nil && n < len(whole)-1 {
			t.Errorf("%d of %d bytes are a key", n, len(whole))
		}
	}
	// Files of the first format are read as before.
	seed := base64.StdEncoding.EncodeToString(identity(t, 1).Seed())
	if id, err := parseKeyFile([]byte(keyPrefixUnchecked + seed + "\n")); err != nil || id.PeerID() != identity(t, 1).PeerID() {
		t.Errorf("a file without a peer ID: %v", err)
	}
}

func TestDirectoryOpenToOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := startIn(t, dir); !errors.Is(err, errOpenToOthers) {
		t.Errorf("Start = %v", err)
	}
	if _, err := startIn(t, filepath.Join(dir, "a\x00b")); err == nil {
		t.Error("a directory that cannot exist is used")
	}
}

func TestAllowIsStored(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o700)
	if err := os.WriteFile(filepath.Join(dir, fileAllow), []byte("# nobody yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := identity(t, 1).PeerID(), identity(t, 2).PeerID()
	n, err := startIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []ri2n.PeerID{a, b, a} {
		if err := n.Allow(id); err != nil {
			t.Fatal(err)
		}
	}
	n.Close()
	text, _ := os.ReadFile(filepath.Join(dir, fileAllow))
	if want := "# nobody yet\n" + a.String() + "\n" + b.String() + "\n"; string(text) != want {
		t.Errorf("allow file = %q, want %q", text, want)
	}
	n, err = startIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if !n.trusts(a) || !n.trusts(b) || n.trusts(identity(t, 3).PeerID()) {
		t.Error("the allow list has changed over a restart")
	}
}

func TestRememberedIsBoundedAndDurable(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	dir := directory(t.TempDir())
	table, err := loadRemembered(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{5, 1, byte(i >> 8), byte(i)}), 4000)
	}
	peer := func(i int) (id ri2n.PeerID) {
		id[0], id[1], id[2] = 1, byte(i>>8), byte(i)
		return id
	}
	for i := range maxRemembered + 10 {
		table.add(now.Add(time.Duration(i)*time.Second), peer(i), addr(i))
	}
	for i := range 2 * maxRememberedForPeer {
		table.add(now.Add(time.Hour+time.Duration(i)*time.Second), peer(500), addr(i))
	}
	if got := len(table.peers); got != maxRemembered {
		t.Errorf("%d peers, want %d", got, maxRemembered)
	}
	if got := table.of(peer(9)); len(got) != 0 {
		t.Errorf("the oldest peer is still remembered at %v", got)
	}
	newest := table.of(peer(500))
	if len(newest) != maxRememberedForPeer || newest[0] != addr(2*maxRememberedForPeer-1) {
		t.Errorf("addresses of one peer = %v", newest)
	}
	if err := table.save(); err != nil {
		t.Fatal(err)
	}
	again, err := loadRemembered(dir, now.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if got := again.of(peer(500)); len(got) != len(newest) || got[0] != newest[0] {
		t.Errorf("after a restart %v, want %v", got, newest)
	}
	if late, _ := loadRemembered(dir, now.Add(2*rememberedLife)); len(late.peers) != 0 {
		t.Errorf("%d peers remembered for too long", len(late.peers))
	}
}

func FuzzStateFiles(f *testing.F) {
	id, err := ri2n.IdentityFromSeed(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	token := &rendezvous.Token{Server: rendezvous.Address{Host: "192.0.2.1", Port: 3478, Peer: id.PeerID()}, Sender: id.PeerID(), Expiry: time.Unix(1_800_000_000, 0)}
	f.Add(appendKeyFile(nil, id))
	f.Add(appendRemembered(nil, id.PeerID(), rememberedAddr{netip.MustParseAddrPort("192.0.2.1:1"), time.Unix(1, 0)}))
	f.Add(appendInvitationFile(nil, &Invitation{token: token, guest: id.PeerID()}))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseKeyFile(b)
		parseRemembered(string(b))
		parseInvitationFile(b)
		ParseAddr(string(b))
	})
}

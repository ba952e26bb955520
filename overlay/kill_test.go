package overlay

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// churnVariable names the directory in which this test binary changes state
// until it is killed.
const churnVariable = "OVERLAY_TEST_CHURN"

// churn changes every kind of state in dir, and says each change once it is
// stored.
func churn(dir directory) error {
	n := &Node{dir: dir, cfg: Config{Dir: string(dir)}}
	n.log = quietLog
	if _, err := n.load(); err != nil {
		return err
	}
	fmt.Println("id", n.identity.PeerID())
	key, err := gridKey(dir, true)
	if err != nil {
		return err
	}
	if n.grid.info == nil {
		server := rendezvous.Address{Host: "192.0.2.1", Port: 3478, Peer: n.identity.PeerID()}
		info, err := membership.SignGrid(key, membership.Grid{
			Key: key.Public().(ed25519.PublicKey), Sequence: 1, Issued: time.Now(), Name: "lab",
			Network: membership.DefaultNetwork, Rendezvous: []rendezvous.Address{server},
		})
		if err != nil {
			return err
		}
		if err := dir.write(fileGrid, membership.AppendGrid(nil, info)); err != nil {
			return err
		}
		if n.grid, err = loadGrid(dir, n.identity.PeerID(), time.Now()); err != nil {
			return err
		}
	}
	for i := 0; ; i++ {
		var id ri2n.PeerID
		rand.Read(id[:])
		if err := n.allowed.add(id); err != nil {
			return err
		}
		fmt.Println("allow", id)

		n.remembered.add(time.Now(), id, netip.MustParseAddrPort("192.0.2.1:4000"))
		if err := n.remembered.save(); err != nil {
			return err
		}

		list, err := membership.Revoke(key, n.grid.revoked, time.Now(), id)
		if err != nil {
			return err
		}
		if _, err := n.grid.adopt(time.Now(), membership.AppendRevocations(nil, list)); err != nil {
			return err
		}
		fmt.Println("revoked", id)

		token, err := rendezvous.NewToken(rand.Reader, n.grid.info.Rendezvous[0], n.identity.PeerID(), time.Now().Add(time.Hour))
		if err != nil {
			return err
		}
		inv := newInvitation(token)
		if err := dir.create(inv.file, appendInvitationFile(nil, inv)); err != nil {
			return err
		}
		if i%2 == 0 {
			fmt.Println("invited", filepath.Base(inv.file))
		} else if err := dir.remove(inv.file); err != nil {
			return err
		}
	}
}

// A process that is killed at any moment leaves a directory that the next one
// can use, with everything in it that it has said to be stored.
func TestStateSurvivesKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real programs")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const seed = 20
	random := mathrand.New(mathrand.NewPCG(seed, seed))
	dir := filepath.Join(t.TempDir(), "state")
	var ids []string
	var said []string
	for range 40 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), churnVariable+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range random.IntN(20) { // with none, while it starts
			if !lines.Scan() {
				break
			}
			said = append(said, lines.Text())
		}
		time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatalf("it has ended by itself: %v", err)
		}
		for lines.Scan() { // what it had said by then
			said = append(said, lines.Text())
		}
		cmd.Wait()
		if problems := CheckState(Config{Dir: dir}); len(problems) > 0 {
			t.Fatalf("seed %d: after %d changes: %v", seed, len(said), problems)
		}
	}
	n := &Node{dir: directory(dir), cfg: Config{Dir: dir}, log: quietLog}
	if _, err := n.load(); err != nil {
		t.Fatal(err)
	}
	changes := 0
	for _, line := range said {
		what, value, _ := strings.Cut(line, " ")
		switch what {
		case "id":
			ids = append(ids, value)
		case "allow":
			if id, err := ri2n.ParsePeerID(value); err != nil || !n.allowed.has(id) {
				t.Errorf("peer %s was allowed, and is not: %v", value, err)
			}
			changes++
		case "revoked":
			if id, err := ri2n.ParsePeerID(value); err != nil || !n.grid.isRevoked(id) {
				t.Errorf("peer %s was revoked, and is not: %v", value, err)
			}
		case "invited":
			if _, err := os.Stat(filepath.Join(dir, folderTokens, value)); err != nil {
				t.Error(err)
			}
		}
	}
	if slices.Sort(ids); len(ids) < 10 || len(slices.Compact(ids)) != 1 || changes < 50 {
		t.Errorf("%d starts with identities %v, %d changes", len(ids), slices.Compact(ids), changes)
	}
}

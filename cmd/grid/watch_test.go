package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
)

// watchSample is a status with a direct and two relayed peers, n steps of
// traffic after the first.
func watchSample(now time.Time, n uint64) overlay.Status {
	peer := func(fill byte, name string, up time.Duration, path overlay.PathStatus, step uint64) overlay.PeerStatus {
		path.Link = "udp"
		path.BytesSent, path.BytesReceived = n*step, n*step/2
		return overlay.PeerStatus{ID: peerID(fill), Name: name, Since: now.Add(-up), Path: path, Paths: []overlay.PathStatus{path}}
	}
	slow := relayPath(punch.Policy)
	slow.RTT = 90 * time.Millisecond
	return overlay.Status{
		PeerID: peerID(2),
		Rendezvous: overlay.RendezvousStatus{
			Address: rendezvous.Address{Host: "example.org", Port: 3478, Peer: peerID(1)}.String(), Registered: true, RTT: 20 * time.Millisecond,
		},
		Links: []overlay.LinkStatus{{
			Name: "udp", Local: netip.MustParseAddrPort("0.0.0.0:4000"), Outside: netip.MustParseAddrPort("198.51.100.1:4000"),
			Behavior: "endpoint-independent mapping",
		}},
		Peers: []overlay.PeerStatus{
			peer(3, "desk", time.Hour, directPath, 1<<20),
			peer(4, "laptop", 90*time.Second, relayPath(punch.MappingBoth), 1<<10),
			peer(5, "", time.Second, slow, 0),
		},
	}
}

func TestWatchScreen(t *testing.T) {
	start := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) look {
		now := start.Add(time.Duration(seconds) * time.Second)
		return look{at: now, status: watchSample(now, uint64(seconds))}
	}
	press := func(keys ...rune) (list []tea.Msg) {
		for _, k := range keys {
			list = append(list, tea.KeyPressMsg{Code: k, Text: string(k)})
		}
		return list
	}
	for _, tt := range []struct {
		name string
		msgs []tea.Msg
	}{
		{"before the first", nil},
		{"no agent", []tea.Msg{look{err: errors.New("agent: none runs")}}},
		{"first", []tea.Msg{at(0)}},
		{"rates", []tea.Msg{at(0), at(2)}},
		{"by rtt", append([]tea.Msg{at(0), at(2)}, press('s')...)},
		{"by path", append([]tea.Msg{at(0), at(2)}, press('s', 's', 's')...)},
		{"details", append([]tea.Msg{at(0), at(2)}, press('d')...)},
		{"scrolled", append([]tea.Msg{at(0), at(2)}, press('j', 'j', 'j', 'j', 'k')...)},
		{"agent gone", []tea.Msg{at(0), at(2), look{err: errors.New("agent: none runs")}}},
		{"small", []tea.Msg{at(0), at(2), tea.WindowSizeMsg{Width: 40, Height: 8}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &watchView{ctx: t.Context(), interval: time.Second, width: 120, height: 16}
			for _, m := range tt.msgs {
				v.Update(m)
			}
			lines := strings.Split(withoutEscapes(v.screen()), "\n")
			if len(lines) != v.height {
				t.Errorf("%d lines on a screen of %d", len(lines), v.height)
			}
			for i, l := range lines {
				if len(l) > v.width {
					t.Errorf("line %d has %d columns", i, len(l))
				}
				lines[i] = strings.TrimRight(l, " ")
			}
			golden(t, filepath.Join("watch", tt.name+".txt"), strings.Join(lines, "\n")+"\n")
		})
	}
}

// withoutEscapes drops colours: nothing on the screen may need them.
func withoutEscapes(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after[strings.IndexByte(after, 'm')+1:]
	}
}

// watchMain is the view with a fixed sample, for TestWatchInATerminal.
func watchMain() {
	err := watchStatus(context.Background(), os.Stdin, os.Stdout, 50*time.Millisecond, func(context.Context) (overlay.Status, error) {
		return watchSample(time.Now(), 7), nil
	})
	fmt.Println("ended:", err)
	time.Sleep(time.Hour) // the terminal ends with its program
}

// The view in a real terminal: tmux, which draws what arrives.
func TestWatchInATerminal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real programs")
	}
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("no tmux here")
	}
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "tmux")
	tmux := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TMUX=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmux("new-session", "-d", "-x", "120", "-y", "16", "env", asWhat+"=watch", self)
	defer tmux("kill-server")
	screen := func(name string) {
		t.Helper()
		file := filepath.Join("testdata", "watch-terminal", name+".txt")
		want, _ := os.ReadFile(file)
		var got string
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			got = tmux("capture-pane", "-p")
			if got == string(want) {
				return
			}
			if *update && time.Until(end) < patience-2*time.Second {
				break
			}
		}
		golden(t, filepath.Join("watch-terminal", name+".txt"), got)
	}
	screen("first")
	if coloured := tmux("capture-pane", "-p", "-e"); !strings.Contains(coloured, "\x1b[32m") {
		t.Error("no colour in a terminal without NO_COLOR")
	}
	tmux("send-keys", "d")
	screen("details")
	tmux("send-keys", "s")
	screen("sorted")
	tmux("send-keys", "q")
	screen("ended")

	tmux("respawn-pane", "-k", "env", "NO_COLOR=1", asWhat+"=watch", self)
	screen("first")
	if coloured := tmux("capture-pane", "-p", "-e"); strings.Contains(coloured, "\x1b[32m") || strings.Contains(coloured, "\x1b[33m") {
		t.Errorf("colour in spite of NO_COLOR: %q", coloured)
	}
}

package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

func TestMembersFile(t *testing.T) {
	one, two := peerID(1), peerID(2)
	for _, tt := range []struct {
		name, text   string
		want         []ri2n.PeerID
		line, column int // of the error; zero: none
	}{
		{"empty", "", nil, 0, 0},
		{"two and comments", "# staff\n" + one.String() + "  # alice\r\n\n  " + two.String(), []ri2n.PeerID{one, two}, 0, 0},
		{"not a peer ID", one.String() + "\n\n  alice # her laptop\n", nil, 3, 3},
		{"two on a line", one.String() + " " + two.String() + "\n", nil, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseMembers("members", tt.text)
			var e *MembersError
			if errors.As(err, &e) {
				if e.Line != tt.line || e.Column != tt.column || !strings.HasPrefix(e.Object(), "members:") || e.Next() == "" {
					t.Errorf("error at %s, want %d:%d", e.Object(), tt.line, tt.column)
				}
				return
			}
			if err != nil || tt.line != 0 || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestMembersFileIsWatched(t *testing.T) {
	file := filepath.Join(t.TempDir(), "members")
	write := func(text string) {
		t.Helper()
		// As editors do it: a new file in the old one's place.
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	applied := make(chan []ri2n.PeerID)
	failed := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		WatchMembers(ctx, file, time.Millisecond, nil,
			func(m []ri2n.PeerID) { applied <- m }, func(err error) { failed <- err })
	}()
	for n := 1; n <= 3; n++ {
		write(strings.Repeat(peerID(1).String()+"\n", n)) // the size always changes
		for len(<-applied) != n {                         // the first look may see the file before
		}
	}
	write("nonsense\n")
	if err := <-failed; err == nil {
		t.Error("a bad file is no failure")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	cancel()
	<-ended
}

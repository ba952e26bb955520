package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/instantgrid/instantgrid/punch"
	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// Every error that a user may see names an object, a cause and what to do
// next (friendliness.md, line 8).
func TestErrorsExplainThemselves(t *testing.T) {
	peer, self := identity(t, 1).PeerID(), identity(t, 2).PeerID()
	list := []Explained{
		&AddressError{Text: "bob", Problem: "it has no :PORT"},
		&NoWayError{}, &NoWayError{Peer: peer},
		&TooManyError{What: "open invitations", Limit: 64},
		&TokenRefusedError{Peer: peer}, &TokenRefusedError{Peer: peer, Own: true},
		&LinkError{Name: "UDP port 80", Err: syscall.EADDRINUSE},
		&LinkError{Name: "UDP port 80", Err: syscall.EACCES},
		&LinkError{Name: "UDP port 80", Err: errors.New("odd")},
		&StateError{File: "key", Err: errNotKey},
		&StateError{File: "key", Err: errOpenToOthers},
		&StateError{File: "key", Err: &fs.PathError{Op: "open", Path: "key", Err: os.ErrPermission}},
		&StateError{File: "key", Err: &fs.PathError{Op: "write", Path: "key", Err: syscall.ENOSPC}},
		&NameError{Name: "bob", Problem: "no member has it", Member: true}, &NameError{Name: "bob", Problem: "no grid"},
		&MemberError{Dir: "/dir", Grid: "lab"}, &AdminError{Dir: "/dir"},
		&PolicyError{File: "policy.yaml", Line: 3, Column: 5, Field: "rules[0].ports[0]", Problem: "bad"},
		&PacketSizeError{Size: 9000},
		&StateError{File: "allow", Line: 3, Err: errNotPeerID},
	}
	for _, code := range []uint64{resetRefused, resetBusy, resetHeader, resetPolicy} {
		list = append(list, &PortError{Peer: peer, Port: 7000, Code: code})
	}
	for _, err := range []error{
		ri2n.ErrRefused, ri2n.ErrHandshakeTimeout, ri2n.ErrIdleTimeout, ri2n.ErrStatelessReset,
		&ri2n.PeerMismatchError{Want: peer, Got: self}, &ri2n.VersionError{Ours: 1, Theirs: []uint32{2}},
		&ri2n.RemoteError{}, &ri2n.RemoteError{Code: closeProtocol}, &ri2n.RemoteError{Code: closeMember, Reason: "expired"}, &ri2n.RemoteError{Code: closeRevoked}, &ri2n.LocalError{Code: closeProtocol},
		context.DeadlineExceeded, context.Canceled, errors.New("odd"),
		&rendezvous.RefusedError{Peer: peer, Reason: rendezvous.ReasonClosed},
	} {
		list = append(list, &PeerError{Peer: peer, Self: self, Err: err})
	}
	for _, r := range []punch.Reason{
		punch.Connecting, punch.NoValidPair, punch.MappingAndFiltering, punch.MappingBoth, punch.UDPIsBlocked,
		punch.ProofFailed, punch.PathDied, punch.Policy, punch.PeerTooOld,
	} {
		list = append(list, newNotDirectError(peer, r, nil))
	}
	for _, e := range list {
		for part, text := range map[string]string{"object": e.Object(), "cause": e.Cause(), "next": e.Next()} {
			if text == "" || strings.Contains(text, "%!") || strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
				t.Errorf("%T: %s = %q", e, part, text)
			}
		}
		if !strings.HasPrefix(e.Error(), "overlay: "+e.Object()) {
			t.Errorf("%T: Error() = %q does not begin with the object %q", e, e.Error(), e.Object())
		}
		if unwrap, ok := e.(interface{ Unwrap() error }); ok && unwrap.Unwrap() != nil && !errors.Is(e, unwrap.Unwrap()) {
			t.Errorf("%T hides %v", e, unwrap.Unwrap())
		}
	}
}

// The walk above misses no error type of the package.
func TestErrorsAreAllWalked(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	walk, err := os.ReadFile("errors_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			name, found := strings.CutPrefix(line, "func (e *")
			if !found || !strings.Contains(line, ") Error() string") {
				continue
			}
			name, _, _ = strings.Cut(name, ")")
			if !strings.Contains(string(walk), "&"+name+"{") && name != "NotDirectError" {
				t.Errorf("%s: error type %s is not walked", f.Name(), name)
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	id := identity(t, 1).PeerID()
	for _, tt := range []struct {
		text string
		ok   bool
	}{
		{id.String() + ":7000", true},
		{strings.ToUpper(id.String()) + ":1", true},
		{id.String() + ":0", false},
		{id.String() + ":65536", false},
		{id.String() + ":http", false},
		{id.String(), false},
		{"localhost:80", false},
		{"", false},
	} {
		a, err := ParseAddr(tt.text)
		var bad *AddressError
		if ok := err == nil; ok != tt.ok || !ok && !errors.As(err, &bad) {
			t.Errorf("ParseAddr(%q) = %v, %v", tt.text, a, err)
		}
		if err == nil && a.String() != strings.ToLower(tt.text) {
			t.Errorf("%q comes back as %q", tt.text, a)
		}
	}
}

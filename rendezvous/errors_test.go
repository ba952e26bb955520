package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// friendliness.md, line 8: every error a user meets has object, cause and next
// command.
func TestEveryErrorSaysWhatToDo(t *testing.T) {
	server := Address{Host: "192.0.2.1", Port: 3478, Peer: testPeer(1)}
	var all []Explained
	for r := protocol.ReasonNone; r <= protocol.ReasonNotRegistered+1; r++ {
		all = append(all,
			&RefusedError{Server: server, Self: testPeer(2), Reason: r},
			&RefusedError{Server: server, Self: testPeer(2), Peer: testPeer(3), Reason: r})
	}
	for p := TokenMalformed; p <= TokenExpired; p++ {
		all = append(all, &TokenError{Problem: p, Detail: "detail"})
	}
	all = append(all,
		&UnreachableError{Server: server},
		&UnreachableError{Server: server, Err: io.EOF},
		&UnreachableError{Server: server, Err: context.DeadlineExceeded},
		&UnreachableError{Server: server, Err: &ri2n.PeerMismatchError{Want: testPeer(1), Got: testPeer(2)}},
		&AddressError{Text: "x", Problem: "y"})
	for _, e := range all {
		name := fmt.Sprintf("%T %+v", e, e)
		if e.Object() == "" || e.Cause() == "" || e.Next() == "" {
			t.Errorf("%s: object %q, cause %q, next %q", name, e.Object(), e.Cause(), e.Next())
		}
		if !strings.HasPrefix(e.Error(), "rendezvous: ") || !strings.Contains(e.Error(), e.Cause()) {
			t.Errorf("%s: message %q", name, e.Error())
		}
		for _, s := range []string{e.Object(), e.Cause(), e.Next()} {
			if strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "...") || strings.Contains(s, "\n") {
				t.Errorf("%s: %q is not one clause", name, s)
			}
		}
	}
}

func TestErrorsMatchTheirSentinels(t *testing.T) {
	for _, tt := range []struct {
		err      error
		sentinel error
		want     bool
	}{
		{&RefusedError{Reason: ReasonUnknownPeer}, ErrPeerUnknown, true},
		{&RefusedError{Reason: ReasonPeerGone}, ErrPeerUnknown, true},
		{&RefusedError{Reason: ReasonBusy}, ErrPeerUnknown, false},
		{&RefusedError{Reason: ReasonNotAdmitted}, ErrNotAdmitted, true},
		{&RefusedError{Reason: ReasonTokenUsed}, ErrNotAdmitted, true},
		{&RefusedError{Reason: ReasonQuota}, ErrNotAdmitted, false},
		{&UnreachableError{Err: io.EOF, ended: context.Canceled}, io.EOF, true},
		{&UnreachableError{Err: io.EOF, ended: context.Canceled}, context.Canceled, true},
	} {
		if got := errors.Is(tt.err, tt.sentinel); got != tt.want {
			t.Errorf("%v is %v: %v, want %v", tt.err, tt.sentinel, got, tt.want)
		}
	}
}

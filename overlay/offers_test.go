package overlay

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

func TestOffersGolden(t *testing.T) {
	list := []Offer{{"ssh", "tcp", 22}, {"x-9", "udp", 0x1234}}
	b := appendOffers(nil, list)
	compareHex(t, "offers", "overlay.Offer, two. Network, port, length, name; the same.", b, 1, 2, 1, 3, 1, 2, 1)
	if got, err := parseOffers(b); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("parse = %+v, %v", got, err)
	}
	for i := range b {
		// The first offer is whole, and the list may end behind it.
		if got, err := parseOffers(b[:i]); i != 0 && i != 7 && !errors.Is(err, errMalformed) {
			t.Errorf("prefix of %d bytes = %+v, %v; want malformed", i, got, err)
		}
	}
	for _, b := range []string{
		"\x00\x00\x16\x03ssh", // no network
		"\x03\x00\x16\x03ssh",
		"\x01\x00\x00\x03ssh", // the control port
		"\x01\x00\x16\x00",    // no name
		"\x01\x00\x16\x03SSH",
		"\x01\x00\x16\x03222", // a number
		"\x01\x00\x16\x03a.b",
		"\x01\x00\x16\x02-a",
		"\x01\x00\x16\x10abcdefghijklmnop",
		strings.Repeat("\x01\x00\x16\x03ssh", MaxOffers+1),
	} {
		if got, err := parseOffers([]byte(b)); !errors.Is(err, errMalformed) {
			t.Errorf("%q = %+v, %v; want malformed", b, got, err)
		}
	}
}

func FuzzParseOffers(f *testing.F) {
	f.Add(appendOffers(nil, []Offer{{"ssh", "tcp", 22}, {"x-9", "udp", 0x1234}}))
	f.Add([]byte{1, 0, 22, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseOffers(b)
		if err != nil {
			return
		}
		if again := appendOffers(nil, list); string(again) != string(b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, list, again)
		}
	})
}

// A peer learns of what it may connect to, and of nothing else.
func TestOffers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, nil)
		b := r.start(r.hostB, 2, func(c *Config) { c.Allow = []ri2n.PeerID{identity(t, 1).PeerID()} })
		r.ready(a, b)
		offers := func() []Offer {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			list, err := a.Offers(ctx, b.PeerID())
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		if list := offers(); len(list) != 0 {
			t.Errorf("of nothing: %+v", list)
		}
		ssh, web := Offer{"ssh", "tcp", 22}, Offer{"http", "tcp", 8080}
		var withdraw []func()
		for _, o := range []Offer{ssh, web, web} {
			w, err := b.Offer(o)
			if err != nil {
				t.Fatal(err)
			}
			withdraw = append(withdraw, w)
		}
		if list := offers(); !reflect.DeepEqual(list, []Offer{ssh, web}) {
			t.Errorf("offers = %+v", list)
		}
		withdraw[0]()
		withdraw[0]()
		withdraw[1]()
		if list := offers(); !reflect.DeepEqual(list, []Offer{web}) {
			t.Errorf("after ssh was withdrawn: %+v", list)
		}
		for i := range MaxOffers {
			_, err := b.Offer(Offer{fmt.Sprint("x", i), "tcp", 1})
			if full := i == MaxOffers-1; full != errors.Is(err, syscall.ENOBUFS) {
				t.Errorf("offer %d: %v", i, err)
			}
		}
		if list := offers(); len(list) != MaxOffers {
			t.Errorf("%d offers", len(list))
		}
		for _, bad := range []Offer{{"", "tcp", 1}, {"SSH", "tcp", 1}, {"22", "tcp", 1}, {"ssh", "sctp", 1}, {"ssh", "tcp", 0}} {
			if _, err := b.Offer(bad); err == nil {
				t.Errorf("offer of %+v", bad)
			}
		}
	})
}

// What the policy closes to a member is no affair of it.
func TestOffersOfClosedPorts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGridRig(t)
		dir := g.join(g.hostB, 2, "bob", g.invite(membership.InviteOptions{}))
		writePolicy(t, dir, "rules:\n  - names: [admin]\n    ports: [80]\n")
		admin, b := g.startIn(g.hostA, adminNumber, g.admin), g.startIn(g.hostB, 2, dir)
		g.ready(admin, b)
		for _, o := range []Offer{{"ssh", "tcp", 22}, {"http", "tcp", 80}} {
			if _, err := b.Offer(o); err != nil {
				t.Fatal(err)
			}
		}
		list, err := admin.Offers(t.Context(), b.PeerID())
		if want := []Offer{{"http", "tcp", 80}}; err != nil || !reflect.DeepEqual(list, want) {
			t.Errorf("offers = %+v, %v; want %+v", list, err, want)
		}
	})
}

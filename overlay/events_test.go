package overlay

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEventsPingAndStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		a := r.start(r.hostA, 1, nil)
		ctx, cancel := context.WithCancel(t.Context())
		events := a.Events(ctx)
		b := r.start(r.hostB, 2, nil)
		if err := b.Allow(a.PeerID()); err != nil {
			t.Fatal(err)
		}
		r.ready(a, b)
		echo(t, b, ":7000")
		c := dial(t, a, b.PeerID(), 7000)
		says(t, c, "hello")
		waitDirect(t, a, b)
		p, err := a.Connect(t.Context(), b.PeerID())
		if err != nil {
			t.Fatal(err)
		}
		rtt, path, err := p.Ping(t.Context())
		if err != nil || rtt < 40*time.Millisecond || rtt > 60*time.Millisecond || path.Kind != KindDirect || path.Reason != "" {
			t.Errorf("ping = %v, %+v, %v", rtt, path, err)
		}
		st := a.Status()
		if len(st.Peers) != 1 || st.Peers[0].BytesSent != 5 || st.Peers[0].BytesReceived != 5 || len(st.Peers[0].Paths) < 2 {
			t.Errorf("peers = %+v", st.Peers)
		}
		if len(st.Links) != 1 || st.Links[0].Outside.Addr() != r.homeA.Addr() || st.Links[0].Behavior == "" {
			t.Errorf("links = %+v", st.Links)
		}
		if text, err := json.Marshal(st); err != nil || !strings.Contains(string(text), `"kind":"direct"`) {
			t.Errorf("JSON = %s, %v", text, err)
		}
		r.server.Close()
		c.Close()
		p.Close()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		cancel()
		var kinds []string
		for e := range events {
			if e.Time.IsZero() {
				t.Errorf("event %+v has no time", e)
			}
			kinds = append(kinds, e.Kind)
		}
		for _, want := range []string{EventRendezvousUp, EventPeerUp, EventPath, EventPeerDown, EventRendezvousDown} {
			if !slices.Contains(kinds, want) {
				t.Errorf("events %v lack %s", kinds, want)
			}
		}
	})
}

// A reader that does not keep up loses the oldest events, and holds up nobody.
func TestEventsAreBounded(t *testing.T) {
	var h hub[Event]
	c, end := h.subscribe()
	dropped := 0
	for i := range maxEvents + 10 {
		dropped += h.emit(Event{Detail: string(rune('a' + i%26))})
	}
	if dropped != 10 || len(c) != maxEvents {
		t.Errorf("dropped %d, queued %d", dropped, len(c))
	}
	if first := <-c; first.Detail != "k" {
		t.Errorf("the oldest event is %q, want k", first.Detail)
	}
	end()
	end()
	h.close()
	if c, _ := h.subscribe(); c == nil {
		t.Error("no channel after the end")
	} else if _, open := <-c; open {
		t.Error("an event after the end")
	}
}

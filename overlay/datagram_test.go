package overlay

import (
	"errors"
	"testing"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// What nobody has asked for is refused: datagrams of an unknown kind, services
// without a handler, and anything of a stranger.
func TestUnknownDatagramsAndServices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, restricted, restricted)
		b := r.start(r.world.Host(), 2, func(c *Config) { c.Allow = []ri2n.PeerID{identity(t, 10).PeerID()} })
		r.ready(b)
		session := r.stranger(10).dial(b)
		r.stranger(10).opens(session, appendMessage(append([]byte(nil), controlHeader...), hello{version: 1}))
		time.Sleep(time.Second)
		for _, d := range [][]byte{{}, {0}, {datagramKinds, 1}, {0xff, 1, 2}} {
			if err := session.SendDatagram(0, d); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if got := b.Status().Counters.DatagramsRefused; got != 4 {
			t.Errorf("%d datagrams refused, want 4", got)
		}
		st := r.stranger(10).opens(session, appendHeader(nil, header{networkService, 0xffff}))
		st.SetReadDeadline(time.Now().Add(time.Second))
		_, err := st.Read(make([]byte, 1))
		var reset *ri2n.StreamError
		if !errors.As(err, &reset) || reset.Code != resetRefused {
			t.Errorf("an unknown service answers %v, want code %#x", err, resetRefused)
		}
	})
}

package ri2n

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// TestDeadStandIn: the path in use pauses for a moment, and the one that stands in
// is dead, which nobody has noticed yet. What left there in that moment leaves
// again when the first path answers, and does not wait for time-outs of the dead
// one, whose last round trips were long.
func TestDeadStandIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, slow := netsim.Delay(10*time.Millisecond), netsim.Delay(400*time.Millisecond)
		w, client, server, hosts := simLinks(t, 1, func(c *Config) { c.Policy = PolicyBackup }, fast, slow)
		a, b := streamPair(t, client, server)
		at := make(chan time.Time, 1)
		go func() {
			var one [1]byte
			for {
				if _, err := b.Read(one[:]); err != nil {
					return
				}
				at <- time.Now()
			}
		}()
		say := func(every time.Duration, n int) (longest time.Duration) {
			t.Helper()
			for range n {
				sent := time.Now()
				if _, err := a.Write([]byte{1}); err != nil {
					t.Fatal(err)
				}
				longest = max(longest, (<-at).Sub(sent))
				time.Sleep(every)
			}
			return longest
		}
		cut := func(i int, l netsim.Link, cut bool) {
			t.Helper()
			l.Cut = cut
			if err := w.SetUplink(hosts[i], l); err != nil {
				t.Fatal(err)
			}
		}
		say(50*time.Millisecond, 40)
		cut(1, slow, true)
		cut(0, fast, true)
		restored := time.AfterFunc(300*time.Millisecond, func() { cut(0, fast, false) })
		defer restored.Stop()
		if took := say(50*time.Millisecond, 20); took > 900*time.Millisecond {
			t.Errorf("a byte took %v, with a pause of 300ms", took)
		} else {
			t.Logf("a byte took %v at most", took)
		}
		logPaths(t, client)
	})
}

// TestSmallPacketsFromAnotherAddress: the NAT of a client forgets its mapping while
// next to nothing is sent. The few bytes that come from the new address allow no
// challenge of full size, so that the client's probes have to grow.
func TestSmallPacketsFromAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := netsim.New(t, 1)
		up := netsim.Delay(10 * time.Millisecond)
		home := w.NAT(netsim.NAT{Mapping: netsim.AddressAndPortDependent, Filtering: netsim.AddressAndPortDependent, Allocation: netsim.Random}, up)
		inside, public := home.Host(), w.Host(up)
		a, b := newTestEndpoint(t), newTestEndpoint(t)
		la, lb := addSimulated(t, a, inside, 7000), addSimulated(t, b, public, 7000)
		client, server := connectSessions(t, a, b, Remote{Link: la, Addr: linkAddr(lb)})
		out, in := streamPair(t, client, server)
		time.Sleep(time.Second)
		home.Gateway.Reboot()
		begun := time.Now()
		if _, err := out.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		var one [1]byte
		if _, err := in.Read(one[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(one[:]); err != nil {
			t.Fatal(err)
		}
		out.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := out.Read(one[:]); err != nil {
			t.Fatalf("after %v: %v", time.Since(begun), err)
		}
		t.Logf("an answer after %v", time.Since(begun))
	})
}

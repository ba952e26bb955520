package links

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const up = net.FlagUp | net.FlagRunning

func on(name string, flags net.Flags, addrs ...string) attachment {
	a := attachment{name: name, flags: flags}
	for _, p := range addrs {
		a.addrs = append(a.addrs, netip.MustParsePrefix(p))
	}
	return a
}

func texts(list []Address) []string {
	out := []string{}
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func TestUsable(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   attachment
		want []string
	}{
		{"wired", on("eth0", up, "192.0.2.7/24"), []string{"eth0 192.0.2.7/24"}},
		{"both families", on("eth0", up, "2001:db8::7/64", "192.0.2.7/24"), []string{"eth0 192.0.2.7/24", "eth0 2001:db8::7/64"}},
		{"mapped", on("eth0", up, "::ffff:192.0.2.7/24"), []string{"eth0 192.0.2.7/24"}},
		{"twice", on("eth0", up, "192.0.2.7/24", "192.0.2.7/24"), []string{"eth0 192.0.2.7/24"}},
		{"down", on("eth0", 0, "192.0.2.7/24"), []string{}},
		{"no carrier", on("eth0", net.FlagUp, "192.0.2.7/24"), []string{}},
		{"loopback", on("lo", up|net.FlagLoopback, "127.0.0.1/8", "10.1.1.1/32"), []string{}},
		{"link-local", on("eth0", up, "169.254.3.4/16", "fe80::1/64"), []string{}},
		{"our own interface", on("grid0", up, "fd12:3456::1/40"), []string{}},
		{"containers", on("docker0", up, "172.17.0.1/16"), []string{}},
		{"bridge of containers", on("br-0a1b2c3d4e5f", up, "172.18.0.1/16"), []string{}},
		{"a bridge that people name", on("br0", up, "192.0.2.7/24"), []string{"br0 192.0.2.7/24"}},
	} {
		c := Config{Own: []netip.Prefix{netip.MustParsePrefix("fd12:3456::/40")}}
		c.setDefaults(true)
		if got := texts(c.usable([]attachment{tt.in})); !slices.Equal(got, tt.want) {
			t.Errorf("%s: usable = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestWatch lets addresses come, flap and go.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		eth, wlan := on("eth0", up, "192.0.2.7/24"), on("wlan0", up, "198.51.100.7/24")
		var mu sync.Mutex // guards the two that follow
		var list []attachment
		var failing error
		set := func(err error, to ...attachment) {
			mu.Lock()
			defer mu.Unlock()
			list, failing = to, err
		}
		wake := make(chan struct{}, 1)
		type seen struct {
			at        time.Duration
			gone, new []string
		}
		var got []seen
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		set(nil, eth)
		go func() {
			c := Config{}
			c.setDefaults(true)
			ended <- c.watch(ctx, wake, func() ([]attachment, error) {
				mu.Lock()
				defer mu.Unlock()
				return list, failing
			}, func(ch Change) {
				got = append(got, seen{time.Since(begun), texts(ch.Gone), texts(ch.New)})
			})
		}()
		changeBut := func(err error, to ...attachment) {
			synctest.Wait()
			set(err, to...)
			wake <- struct{}{}
			synctest.Wait()
		}
		change := func(to ...attachment) { changeBut(nil, to...) }
		time.Sleep(time.Second)
		change(eth, wlan) // comes at 1 s
		time.Sleep(200 * time.Millisecond)
		change(eth) // and goes before it has settled
		time.Sleep(800 * time.Millisecond)
		change(eth, wlan) // comes again at 2 s
		time.Sleep(2 * time.Second)
		changeBut(errors.New("no answer")) // a look that fails changes nothing
		change(wlan)                       // the wire is pulled at 4 s
		synctest.Wait()
		set(nil, eth, wlan) // nobody tells; a look finds it within 5 s
		time.Sleep(6 * time.Second)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("watch = %v", err)
		}
		want := []seen{
			{0, []string{}, texts(nil)},
			{2500 * time.Millisecond, []string{}, []string{"wlan0 198.51.100.7/24"}},
			{4 * time.Second, []string{"eth0 192.0.2.7/24"}, []string{}},
			{9500 * time.Millisecond, []string{}, []string{"eth0 192.0.2.7/24"}},
		}
		want[0].new = []string{"eth0 192.0.2.7/24"}
		if !slices.EqualFunc(got, want, func(a, b seen) bool {
			return a.at == b.at && slices.Equal(a.gone, b.gone) && slices.Equal(a.new, b.new)
		}) {
			t.Errorf("reports = %+v\nwant %+v", got, want)
		}
	})
}

func TestUsableHere(t *testing.T) {
	if _, err := Usable(Config{}); err != nil {
		t.Fatal(err)
	}
}

package punch_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/instantgrid/instantgrid/punch"
)

// witness answers Binding requests: to RESPONSE-PORT, to where they came from,
// with a lie about the sender, or never.
func witness(pc net.PacketConn, heeds, lies, silent bool) {
	buf := make([]byte, 2048)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		request := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
		if silent || request.Decode() != nil {
			continue
		}
		to := *from.(*net.UDPAddr)
		seen := stun.XORMappedAddress{IP: to.IP, Port: to.Port}
		if v, err := request.Get(stun.AttrResponsePort); err == nil && heeds {
			to.Port = int(binary.BigEndian.Uint16(v))
		}
		if lies {
			seen.IP = net.IPv4(5, 9, 9, 9)
		}
		answer, err := stun.Build(stun.NewTransactionIDSetter(request.TransactionID), stun.BindingSuccess, &seen)
		if err == nil {
			pc.WriteTo(answer.Raw, &to)
		}
	}
}

func TestReached(t *testing.T) {
	for _, tt := range []struct {
		name                string
		heeds, lies, silent bool
		port                uint16 // zero: the mux's
		want                error
	}{
		{name: "arrives", heeds: true},
		{name: "another port", heeds: true, port: 5000, want: punch.ErrNotReached},
		{name: "another address", heeds: true, lies: true, want: punch.ErrNotReached},
		{name: "no RESPONSE-PORT", want: punch.ErrNoWitness},
		{name: "silent server", silent: true, want: punch.ErrNotReached},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := netsim.New(t, 1)
				host, far := world.Host(), world.Host()
				open := func(h netsim.Host, port uint16) net.PacketConn {
					pc, err := h.ListenPacket(t.Context(), port)
					if err != nil {
						t.Fatal(err)
					}
					return pc
				}
				server := open(far, 3478)
				done := make(chan struct{})
				go func() { witness(server, tt.heeds, tt.lies, tt.silent); close(done) }()
				mux, err := punch.NewMux(open(host, 4000), punch.MuxConfig{})
				if err != nil {
					t.Fatal(err)
				}
				port := tt.port
				if port == 0 {
					port = 4000
				}
				began := time.Now()
				err = mux.Reached(t.Context(), open(host, 0), []netip.AddrPort{netip.AddrPortFrom(far.Addr(), 3478)}, netip.AddrPortFrom(host.Addr(), port))
				if !errors.Is(err, tt.want) || time.Since(began) > 2*time.Second {
					t.Errorf("got %v after %v, want %v", err, time.Since(began), tt.want)
				}
				mux.Close()
				server.Close()
				<-done
			})
		})
	}
}

func TestReachedWithoutServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := netsim.New(t, 1).Host()
		pc, err := host.ListenPacket(t.Context(), 4000)
		if err != nil {
			t.Fatal(err)
		}
		via, err := host.ListenPacket(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		mux, err := punch.NewMux(pc, punch.MuxConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer mux.Close()
		if err := mux.Reached(t.Context(), via, nil, netip.AddrPortFrom(host.Addr(), 4000)); !errors.Is(err, punch.ErrNoWitness) {
			t.Errorf("got %v", err)
		}
	})
}

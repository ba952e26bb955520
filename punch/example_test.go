package punch_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/instantgrid/instantgrid/punch"
)

// Two peers that can already pass messages to each other find a direct path.
// Both are on this computer here, so the filter has to allow loopback.
func Example() {
	filter := punch.Filter{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	found := make(chan punch.Result, 2)
	agents := make([]*punch.Agent, 2)
	for i := range agents {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			return
		}
		mux, err := punch.NewMux(pc, punch.MuxConfig{Filter: filter})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer mux.Close()

		// On the Internet, STUN servers would come here.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		candidates, behavior := mux.Gather(ctx, nil, nil)
		cancel()

		link := punch.Link{ID: 1, Mux: mux, Candidates: candidates, Behavior: behavior}
		agents[i], err = punch.NewAgent(punch.AgentConfig{
			Peer:        "the other one",
			Controlling: i == 0, // the TLS client of the session
			Links:       func() []punch.Link { return []punch.Link{link} },
			Signaler: punch.SignalFunc(func(msg []byte) error {
				return agents[1-i].Receive(msg) // in truth: over the session
			}),
			OnResult: func(r punch.Result) { found <- r },
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer agents[i].Close()
	}
	if err := agents[0].Punch(); err != nil {
		fmt.Println(err)
		return
	}
	for range agents {
		r := <-found
		fmt.Println("direct:", r.Reason == punch.Direct, r.Remote.Addr())
	}
	// Output:
	// direct: true 127.0.0.1
	// direct: true 127.0.0.1
}

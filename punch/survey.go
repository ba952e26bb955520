package punch

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

const (
	// surveySamples is how many fresh sockets a survey asks from: the eight that
	// tell parity by more than chance.
	surveySamples = 8
	// hairpinTries is how many packets a survey sends from outside address to
	// outside address.
	hairpinTries = 3
	hairpinWait  = 150 * time.Millisecond
)

// A Survey is what the sockets of one attachment tell beyond the [Behavior]
// that one of them has. The zero value knows nothing.
type Survey struct {
	Ports Ports `json:"ports"`
	// Hairpinning says whether two sockets behind the NAT reach each other by
	// their outside addresses (RFC 4787, section 6).
	Hairpinning Finding `json:"hairpinning"`
}

// MakeSurvey finds out how ports are allocated, from eight fresh sockets, and
// whether the NAT hairpins. It takes about a second, and returns earlier when
// ctx ends.
func MakeSurvey(ctx context.Context, open func() (net.PacketConn, error), server netip.AddrPort) (s Survey) {
	budget := NewBudget()
	s.Ports = ClassifyPorts(samplePorts(ctx, open, server, surveySamples, budget))
	s.Hairpinning = hairpins(ctx, open, server, budget)
	return s
}

// hairpins sends probes between two sockets by their outside addresses. Both
// send, since a filter applies to insiders too.
func hairpins(ctx context.Context, open func() (net.PacketConn, error), server netip.AddrPort, budget *Budget) Finding {
	ctx, cancel := context.WithTimeout(ctx, sampleTime+hairpinTries*hairpinWait)
	defer cancel()
	attempt := rand.Uint64()
	const pwd = "hairpinning" // nobody else knows the attempt
	heard := make(chan struct{}, 2)
	var muxes [2]*Mux
	var mapped [2]netip.AddrPort
	for i := range muxes {
		pc, err := open()
		if err != nil {
			return NotMeasured
		}
		if muxes[i], err = NewMux(pc, MuxConfig{Budget: budget}); err != nil {
			pc.Close()
			return NotMeasured
		}
		defer muxes[i].Close()
		muxes[i].watchProbes(attempt, func(b []byte, _ netip.AddrPort) {
			if _, ok := parseProbe(b, pwd); ok {
				select {
				case heard <- struct{}{}:
				default:
				}
			}
		})
		if mapped[i], err = muxes[i].Bind(ctx, server); err != nil || mapped[i].Port() < leastPort {
			return NotMeasured
		}
	}
	for range hairpinTries {
		for i := range muxes {
			_ = muxes[i].send(appendProbe(nil, probe{probeOpen, attempt}, pwd), mapped[1-i])
		}
		select {
		case <-heard:
			return Yes
		case <-ctx.Done():
			return NotMeasured
		case <-time.After(hairpinWait):
		}
	}
	return No
}

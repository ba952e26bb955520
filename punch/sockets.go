package punch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// portSamples is how many fresh sockets show how a NAT picks ports, and
	// sampleTime how long their Binding transactions may take.
	portSamples = 5
	sampleTime  = 700 * time.Millisecond
	// maxSearchSockets bounds the sockets that all searches of a node have open.
	maxSearchSockets = 600
)

// socketCount counts the sockets of all searches of a node. It is safe for
// concurrent use.
type socketCount struct{ n atomic.Int32 }

// take takes n places, if there are so many.
func (c *socketCount) take(n int) bool {
	if c.n.Add(int32(n)) > maxSearchSockets {
		c.n.Add(int32(-n))
		return false
	}
	return true
}

func (c *socketCount) give(n int) { c.n.Add(int32(-n)) }

// samplePorts asks a server from fresh sockets which port each of them is given
// (RFC 4787, section 4.2). The samples are in the order in which the mappings
// were made; those without an answer are left out.
func samplePorts(ctx context.Context, listen func() (net.PacketConn, error), server netip.AddrPort, n int, budget *Budget) []PortSample {
	ctx, cancel := context.WithTimeout(ctx, sampleTime)
	defer cancel()
	samples := make([]PortSample, n)
	var wait sync.WaitGroup
	for i := range samples {
		pc, err := listen()
		if err != nil {
			break
		}
		m, err := NewMux(pc, MuxConfig{Budget: budget})
		if err != nil {
			pc.Close()
			break
		}
		// All stay open until the last has its port, or it would be free again.
		defer m.Close()
		wait.Go(func() {
			if mapped, err := m.Bind(ctx, server); err == nil {
				samples[i] = PortSample{Local: m.local.Port(), Mapped: mapped.Port()}
			}
		})
		select {
		case <-time.After(probeSpacing):
		case <-ctx.Done():
		}
	}
	wait.Wait()
	kept := samples[:0]
	for _, s := range samples {
		if s.Mapped != 0 {
			kept = append(kept, s)
		}
	}
	return kept
}

// A searchSocket is one fresh socket of a search and its reader.
type searchSocket struct {
	pc   net.PacketConn
	done chan struct{} // the reader has ended
}

// openSearchSocket opens a socket and hands the probes that arrive on it, under
// pwd and for attempt, to report, which must not block.
func openSearchSocket(listen func() (net.PacketConn, error), pwd string, attempt uint64, report func(from netip.AddrPort, kind probeKind)) (*searchSocket, error) {
	pc, err := listen()
	if err != nil {
		return nil, err
	}
	s := &searchSocket{pc: pc, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		buf := make([]byte, probeBytes+1)
		for failures := 0; failures < maxReadErrors; {
			n, addr, err := pc.ReadFrom(buf)
			switch {
			case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
				return
			case err != nil:
				failures++
				continue
			}
			from, ok := addrPortOf(addr)
			if p, authentic := parseProbe(buf[:n], pwd); ok && authentic && p.attempt == attempt {
				report(from, p.kind)
			}
		}
	}()
	return s, nil
}

func (s *searchSocket) port() uint16 {
	a, _ := addrPortOf(s.pc.LocalAddr())
	return a.Port()
}

// release ends the reader and gives the socket away.
func (s *searchSocket) release() (net.PacketConn, error) {
	if err := s.pc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	<-s.done
	return s.pc, s.pc.SetReadDeadline(time.Time{})
}

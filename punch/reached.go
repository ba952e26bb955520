package punch

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

// maxWitnesses bounds the servers that are asked to prove a mapping.
const maxWitnesses = 3

// witnessTries is how often each is asked, with 200 ms, 400 ms and 800 ms for
// the answer.
const witnessTries = 3

var (
	// ErrNotReached reports an outside address at which packets do not arrive.
	ErrNotReached = errors.New("punch: packets to the address do not arrive here")
	// ErrNoWitness reports that no server can say whether they do.
	ErrNoWitness = errors.New("punch: no STUN server can prove the address")
)

// Reached proves that packets to outside arrive at the mux's socket: each of the
// servers is asked, from via, to answer to the port of outside (RESPONSE-PORT,
// RFC 5780, section 7.5), and the answer has to come in here, from any port of the
// server, and name the address of outside as ours. Via is another socket behind the same NAT; it is
// closed. A server that answers to via heeds no RESPONSE-PORT and proves
// nothing.
//
// The error is nil, [ErrNotReached], [ErrNoWitness] if all servers are such ones
// or there is none, or that of ctx. It takes up to 1.5 s.
func (m *Mux) Reached(ctx context.Context, via net.PacketConn, servers []netip.AddrPort, outside netip.AddrPort) error {
	defer via.Close()
	answer := make(chan bindAnswer, 1)
	asked := make(map[transactionID]netip.AddrPort)
	m.mu.Lock()
	for _, s := range servers {
		if s = canonical(s); s.Addr().Is4() != outside.Addr().Is4() || len(asked) >= maxWitnesses || m.closed || len(m.binds) >= maxBinds {
			continue
		}
		var id transactionID
		if _, err := rand.Read(id[:]); err != nil {
			m.mu.Unlock()
			return fmt.Errorf("punch: read transaction ID: %w", err)
		}
		asked[id] = s
		m.binds[id] = &binding{server: s, source: s, anyPort: true, answer: answer}
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		for id := range asked {
			delete(m.binds, id)
		}
		m.mu.Unlock()
	}()
	if len(asked) == 0 {
		return ErrNoWitness
	}

	deaf := make(chan transactionID, maxWitnesses)
	done := make(chan struct{})
	go func() {
		defer close(done)
		readStrayAnswers(via, asked, deaf)
	}()
	defer func() { <-done }()
	defer via.Close()

	silent := make(map[transactionID]bool, len(asked)) // servers that may yet prove it
	for id := range asked {
		silent[id] = true
	}
	wait := bindFirst
	for range witnessTries {
		for id := range silent {
			if m.pace.budget.take(time.Now()) == 0 {
				// A failed send counts as a lost packet.
				_, _ = via.WriteTo(newWitnessRequest(id, outside.Port()), net.UDPAddrFromAddrPort(asked[id]))
			}
		}
		timer := time.NewTimer(wait)
		for waiting := true; waiting; {
			select {
			case a := <-answer:
				if a.err == nil && a.mapped.Addr() == outside.Addr() {
					timer.Stop()
					return nil
				}
			case id := <-deaf:
				if delete(silent, id); len(silent) == 0 {
					timer.Stop()
					return ErrNoWitness
				}
			case <-timer.C:
				waiting = false
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		wait *= 2
	}
	return ErrNotReached
}

// readStrayAnswers tells of servers that answer to where they were asked from.
func readStrayAnswers(via net.PacketConn, asked map[transactionID]netip.AddrPort, deaf chan<- transactionID) {
	told := make(map[transactionID]bool)
	buf := make([]byte, maxSTUNBytes)
	for failures := 0; failures < maxReadErrors; {
		n, from, err := via.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			failures++ // an ICMP error, say
			continue
		}
		h, err := parseSTUN(buf[:n])
		source, ok := addrPortOf(from)
		if err != nil || !ok || h.class == classRequest || asked[h.id] != source || told[h.id] {
			continue
		}
		told[h.id] = true
		deaf <- h.id // at most one for each server: there is room
	}
}

// newWitnessRequest builds a padded Binding request with RESPONSE-PORT.
func newWitnessRequest(id transactionID, port uint16) []byte {
	s := stun.New()
	s.TransactionID = id
	s.SetType(stun.BindingRequest)
	s.WriteHeader()
	s.Add(stun.AttrResponsePort, append(binary.BigEndian.AppendUint16(nil, port), 0, 0))
	s.Add(stun.AttrPadding, make([]byte, (bindingResponseRoom-len(s.Raw)-4)&^3))
	return s.Raw
}

// Package carrier is what agents and relays talk over, seen from either end: a
// session that carries datagrams of flows beside a control stream.
package carrier

import (
	"context"
	"net/netip"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A Carrier is a session, without its control stream, which one end opens and
// the other accepts.
type Carrier interface {
	// Remote is the other end's transport address, as far as known.
	Remote() netip.AddrPort

	// SendDatagrams sends datagrams of one flow, and returns how many it took:
	// those before the first that is too large.
	SendDatagrams(flow uint64, list [][]byte) (int, error)
	// Datagrams gives what arrives, as many at once as there are, to deliver,
	// until ctx or the session ends. Deliver does not block; it may change the
	// datagrams, and keeps none.
	Datagrams(ctx context.Context, deliver func(list [][]byte))
	MaxDatagramSize() int
	Done() <-chan struct{}
	CloseWithError(code uint64, reason string) error
}

// batch is how many datagrams are taken at once.
const batch = 32

// RI2N is a session of ri2n as a Carrier.
type RI2N struct{ *ri2n.Session }

var _ Carrier = RI2N{}

// Datagrams implements Carrier.
func (s RI2N) Datagrams(ctx context.Context, deliver func(list [][]byte)) {
	list := make([][]byte, batch)
	packets := make([][]byte, batch)
	for {
		n, err := s.ReceiveDatagrams(ctx, list)
		if err != nil {
			return
		}
		for i, b := range list[:n] {
			packets[i] = b[ri2n.DatagramRoom:]
		}
		deliver(packets[:n])
		clear(packets[:n])
		ri2n.ReleaseDatagrams(list[:n])
	}
}

// Remote returns where the other end is on the path that it is sent to on.
func (s RI2N) Remote() (remote netip.AddrPort) {
	for _, p := range s.Paths() {
		if p.Remote.IsValid() && (p.Sending || !remote.IsValid()) {
			remote = p.Remote
		}
	}
	return remote
}

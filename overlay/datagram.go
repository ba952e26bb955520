package overlay

import (
	"context"

	"github.com/instantgrid/instantgrid/ri2n"
)

// A datagramKind is the first byte of every datagram between two nodes
// (docs/overlay-protocol.md, section 7).
type datagramKind byte

const (
	datagramPort    datagramKind = 1 // between ports of the two nodes
	datagramIP      datagramKind = 2 // an IP packet, or a part of one
	datagramRouting datagramKind = 3 // key-based routing and failure detection
	datagramRelay   datagramKind = 4 // ri2n packets of others that we relay, or that are relayed to us

	datagramKinds = 5
)

// A service is what a stream that is not for users is for: the port of its
// header, whose network is networkService (docs/overlay-protocol.md,
// section 1).
type service uint16

const (
	serviceRouting service = 1 // requests of key-based routing
	serviceRelay   service = 2 // opening of relay channels

	services = 3
)

// A datagramHandler takes what follows the kind, on the goroutine that reads
// the session's datagrams: it must not block. It owns b.
type datagramHandler func(a *association, b []byte)

// A serviceHandler serves one stream, on a goroutine of its own, until the
// stream's end; ctx ends with the session.
type serviceHandler func(ctx context.Context, a *association, st *ri2n.Stream)

// handlers are who takes what peers that were let in send, besides streams to
// ports. They are set while the node starts and never after.
type handlers struct {
	datagrams [datagramKinds]datagramHandler
	services  [services]serviceHandler
}

// readDatagrams hands datagrams to their handlers until the session ends.
func (a *association) readDatagrams(ctx context.Context) {
	for {
		b, err := a.session.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		var handle datagramHandler
		if len(b) > 0 && int(b[0]) < datagramKinds {
			handle = a.node.handlers.datagrams[b[0]]
		}
		// Before the peer is let in nothing of it counts.
		if handle == nil || !a.isProven() {
			a.node.counters.datagramsRefused.Add(1)
			continue
		}
		handle(a, b[1:])
	}
}

// openService opens a stream to a service of the peer.
func (a *association) openService(ctx context.Context, s service) (*ri2n.Stream, error) {
	st, err := a.session.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := st.Write(appendHeader(nil, header{network: networkService, port: uint16(s)})); err != nil {
		st.Reset(resetHeader)
		return nil, err
	}
	return st, nil
}

// serve hands a service's stream to its handler.
func (a *association) serve(ctx context.Context, s uint16, st *ri2n.Stream) {
	if int(s) < services {
		if handle := a.node.handlers.services[s]; handle != nil {
			handle(ctx, a, st)
			return
		}
	}
	a.node.counters.streamsRefused.Add(1)
	st.Reset(resetRefused)
}

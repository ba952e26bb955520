package overlay

import (
	"context"
	"time"

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
	serviceOffers  service = 3 // what services programs of the node offer

	services = 4
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

// Datagrams that one look takes: a session with little traffic should not hold
// room for many.
const (
	minDatagramBatch = 4
	maxDatagramBatch = 128
)

// readDatagrams hands datagrams to their handlers until the session ends.
func (a *association) readDatagrams(ctx context.Context) {
	list := make([][]byte, minDatagramBatch)
	packets := make([][]byte, 0, minDatagramBatch)
	relayed := make([][]byte, 0, minDatagramBatch)
	for {
		n, err := a.session.ReceiveDatagrams(ctx, list)
		if err != nil {
			return
		}
		packets, relayed = packets[:0], relayed[:0]
		for _, b := range list[:n] {
			d := b[ri2n.DatagramRoom:]
			var handle datagramHandler
			if len(d) > 0 && int(d[0]) < datagramKinds {
				if datagramKind(d[0]) == datagramIP {
					packets = append(packets, b)
					continue
				}
				if datagramKind(d[0]) == datagramRelay {
					relayed = append(relayed, d[1:])
					continue
				}
				handle = a.node.handlers.datagrams[d[0]]
			}
			// Before the peer is let in nothing of it counts.
			if handle == nil || !a.isProven() {
				a.node.counters.datagramsRefused.Add(1)
				continue
			}
			handle(a, append([]byte(nil), d[1:]...))
		}
		if len(packets) > 0 {
			a.takePackets(packets)
			clear(packets)
		}
		if len(relayed) > 0 {
			a.takeRelayed(relayed)
			clear(relayed)
		}
		ri2n.ReleaseDatagrams(list[:n])
		if n == len(list) && n < maxDatagramBatch {
			list = make([][]byte, 2*n)
		}
	}
}

// takePackets hands datagrams of kind IP to their handler.
func (a *association) takePackets(buffers [][]byte) {
	h := a.node.ip.Load()
	if h != nil && a.isProven() {
		if from, ok := a.node.grid.ipAddresses(time.Now(), a.peer.id); ok {
			a.packetBatches.Add(1)
			(*h).HandleIP(from, buffers)
			return
		}
	}
	a.node.counters.datagramsRefused.Add(uint64(len(buffers)))
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

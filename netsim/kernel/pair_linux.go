package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/vishvananda/netlink"
)

// A Pair is two hosts joined by one or more links and nothing else: what a
// measurement between two multi-homed machines needs. Link i has a device and
// an address of its own at both ends, and carries what is sent to its address.
type Pair struct {
	hosts [2]*Host
	pool  *packetPool

	mu     sync.Mutex // guards wires and closed
	wires  []*wire    // nil: a veth pair
	closed bool
}

// maxPairLinks keeps the second byte from the end of an address a link's own.
const maxPairLinks = 250

// StartPair makes two hosts, "a" and "b", joined by links. A link that is the
// zero value is a veth pair, which the kernel alone carries; the others pass
// through this process, which delays, shapes and loses what netsim.Link says,
// "up" being the way from a to b. seed is that of the random choices. The
// caller ends it with Close. The error wraps ErrNotPermitted where the system
// refuses.
func StartPair(seed uint64, links ...netsim.Link) (*Pair, error) {
	if len(links) == 0 || len(links) > maxPairLinks {
		return nil, fmt.Errorf("kernel: a pair has 1 to %d links, not %d", maxPairLinks, len(links))
	}
	size := 2048
	for i, l := range links {
		if err := validateLink(l); err != nil {
			return nil, fmt.Errorf("link %d of pair: %w", i, err)
		}
		size = max(size, deviceMTU(l))
	}
	p := &Pair{pool: newPacketPool(size), wires: make([]*wire, len(links))}
	for i, name := range []string{"a", "b"} {
		ns, err := newNamespace()
		if err != nil {
			p.Close()
			return nil, err
		}
		p.hosts[i] = &Host{node: &node{name: name, ns: ns, address: pairAddress(0, i)}}
	}
	for i, l := range links {
		if err := p.attach(i, l, seed); err != nil {
			p.Close()
			return nil, fmt.Errorf("link %d of pair: %w", i, err)
		}
	}
	return p, nil
}

func pairAddress(link, end int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, byte(link), byte(1 + end)})
}

// PairDevice returns the name of the device of link i, the same at both ends.
func PairDevice(i int) string { return insideName(i) }

// Host returns host 0 ("a") or 1 ("b").
func (p *Pair) Host(i int) *Host { return p.hosts[i] }

// Addr returns the address of host 0 or 1 on link i.
func (p *Pair) Addr(host, i int) netip.Addr { return pairAddress(i, host) }

// attach makes link i.
func (p *Pair) attach(i int, l netsim.Link, seed uint64) error {
	name := PairDevice(i)
	mtu := deviceMTU(l)
	devices := [2]device{
		{name: name, local: pairAddress(i, 0), peer: pairAddress(i, 1)},
		{name: name, local: pairAddress(i, 1), peer: pairAddress(i, 0)},
	}
	if l == (netsim.Link{}) {
		return p.attachVeth(devices, mtu)
	}
	var files [2]*os.File
	for end, d := range devices {
		f, err := p.hosts[end].node.openTUN(d, mtu)
		if err != nil {
			if end == 1 {
				files[0].Close()
			}
			return err
		}
		files[end] = f
	}
	w := newWire(l, seed, uint64(i), p.pool, files[0], writer(files[1], p.pool))
	w.devices = append(w.devices, files[1])
	w.start(files[0], w.up)
	w.start(files[1], w.down)
	p.wires[i] = w
	return nil
}

func (p *Pair) attachVeth(devices [2]device, mtu int) error {
	a, b := p.hosts[0], p.hosts[1]
	err := a.Do(func() error {
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name = devices[0].name
		veth.PeerName = devices[1].name
		veth.PeerNamespace = netlink.NsFd(b.node.ns.fd)
		if err := netlink.LinkAdd(veth); err != nil {
			return notPermitted("making a veth pair", err)
		}
		return devices[0].configure(mtu)
	})
	if err != nil {
		return err
	}
	if err := b.Do(func() error { return devices[1].configure(mtu) }); err != nil {
		return err
	}
	for end, h := range p.hosts {
		if err := h.Do(func() error { return waitUp(devices[end].name) }); err != nil {
			return err
		}
	}
	return nil
}

// SetLink changes link i under way. What was sent before arrives as it would
// have. It fails for a link that is a veth pair.
func (p *Pair) SetLink(i int, l netsim.Link) error {
	if i < 0 || i >= len(p.wires) {
		return fmt.Errorf("kernel: set link: a pair of %d links has no link %d", len(p.wires), i)
	}
	if err := validateLink(l); err != nil {
		return fmt.Errorf("set link %d of pair: %w", i, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return net.ErrClosed
	case p.wires[i] == nil:
		return fmt.Errorf("kernel: set link %d of pair: it is a veth pair", i)
	case deviceMTU(l) > p.pool.size:
		return fmt.Errorf("kernel: set link %d of pair: MTU %d is above %d, the most this pair was started for", i, deviceMTU(l), p.pool.size)
	}
	p.wires[i].set(l)
	return nil
}

// Counters returns what link i has done, from a to b and back; all are zero
// for a veth pair.
func (p *Pair) Counters(i int) (up, down Counters) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.wires[i]; w != nil {
		up, down = w.up.counters.snapshot(), w.down.counters.snapshot()
	}
	return up, down
}

// Close ends the pair: sockets of its hosts return net.ErrClosed, processes
// started by Host.Command are killed, namespaces vanish. It returns when all
// goroutines have ended, and may be called twice.
func (p *Pair) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, w := range p.wires {
		if w != nil {
			w.close()
		}
	}
	for _, h := range p.hosts {
		if h != nil {
			h.closeSockets()
			h.node.ns.close()
		}
	}
	return nil
}

package kernel

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/instantgrid/instantgrid/netsim"
	"github.com/vishvananda/netlink"
)

// A Network is a scenario that runs in network namespaces.
type Network struct {
	core  *core
	seed  uint64
	pool  *packetPool
	nodes map[string]*node
	hosts map[string]*Host

	mu     sync.Mutex // guards the links of nodes, too
	closed bool
}

var _ netsim.Network = (*Network)(nil)

// A node is a host or a NAT.
type node struct {
	name    string
	ns      *namespace
	address netip.Addr // toward the parent
	parent  *node      // nil: the core
	index   int        // among the parent's children, or those of the core
	nat     *router    // nil: a host
	gateway netip.Addr // of a NAT: its address inside

	// Guarded by Network.mu, as is nat.first.
	link  netsim.Link
	mtu   int    // of the devices
	wire  *wire  // nil: a veth pair
	boots uint64 // of a NAT, after the first
}

// Check reports, as an error that wraps ErrNotPermitted, why Start would be
// refused on this system. It leaves nothing behind.
func Check() error {
	ns, err := newNamespace()
	if err != nil {
		return err
	}
	defer ns.close()
	return ns.do(func() error {
		tun, err := openTUN(uplinkName)
		if err != nil {
			return err
		}
		defer tun.Close()
		return router{outside: netip.AddrFrom4([4]byte{192, 0, 2, 1})}.install()
	})
}

// Start builds the scenario and returns the running network; the caller ends
// it with Close. The error wraps ErrNotPermitted where the system refuses,
// ErrUnsupported for what SupportsScenario refuses, and is a
// *netsim.ScenarioError where the scenario is wrong.
func Start(sc netsim.Scenario) (*Network, error) {
	addresses, err := sc.Addresses()
	if err != nil {
		return nil, err
	}
	if err := SupportsScenario(sc); err != nil {
		return nil, err
	}
	pool := newPacketPool(bufferSize(sc))
	n := &Network{
		core:  newCore(pool),
		seed:  sc.Seed,
		pool:  pool,
		nodes: make(map[string]*node),
		hosts: make(map[string]*Host),
	}
	if err := n.build(sc, addresses); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// bufferSize returns the bytes of the largest packet that a link of the
// scenario lets pass, with some room for later changes of links.
func bufferSize(sc netsim.Scenario) int {
	size := 2048
	add := func(l netsim.Link) { size = max(size, deviceMTU(l)) }
	for _, n := range sc.NATs {
		add(n.Uplink)
	}
	for _, h := range sc.Hosts {
		add(h.Uplink)
	}
	return size
}

// deviceMTU returns the MTU of the devices of a link: never below the usual
// one, since a smaller link drops silently what a host believes to fit.
func deviceMTU(l netsim.Link) int {
	return max(defaultMTU, l.MTU, downward(l).MTU)
}

func (n *Network) build(sc netsim.Scenario, addresses map[string]netsim.NodeAddress) error {
	var inOrder []*node
	parents := make(map[*node]string)
	add := func(name, parent string, l netsim.Link) (*node, error) {
		ns, err := newNamespace()
		if err != nil {
			return nil, err
		}
		nd := &node{name: name, ns: ns, address: addresses[name].Addr, link: l, mtu: deviceMTU(l)}
		n.nodes[name] = nd
		parents[nd] = parent
		inOrder = append(inOrder, nd)
		return nd, nil
	}
	for _, nat := range sc.NATs {
		nd, err := add(nat.Name, nat.Parent, nat.Uplink)
		if err != nil {
			return err
		}
		nd.nat = &router{nat: nat.NAT, outside: nd.address}
		nd.gateway = addresses[nat.Name].Inside.Addr().Next()
	}
	for _, host := range sc.Hosts {
		nd, err := add(host.Name, host.Parent, host.Uplink)
		if err != nil {
			return err
		}
		n.hosts[host.Name] = &Host{node: nd}
	}
	children := make(map[*node]int)
	for _, nd := range inOrder {
		nd.parent = n.nodes[parents[nd]]
		nd.index = children[nd.parent]
		children[nd.parent]++
		if err := n.attach(nd); err != nil {
			return fmt.Errorf("attach %s: %w", nd.name, err)
		}
		if nd.nat == nil {
			continue
		}
		nd.nat.first = n.firstPort(nd)
		if err := nd.ns.do(nd.nat.install); err != nil {
			return fmt.Errorf("make NAT %s: %w", nd.name, err)
		}
	}
	for _, nd := range inOrder {
		if nd.parent == nil {
			nd.wire.start(nd.wire.devices[0], nd.wire.up)
		}
	}
	return nil
}

// attach makes the link of nd toward its parent.
func (n *Network) attach(nd *node) error {
	switch {
	case nd.parent == nil:
		return n.attachCore(nd)
	case nd.link == (netsim.Link{}):
		return attachVeth(nd)
	default:
		return n.attachTUN(nd)
	}
}

// attachCore gives nd an uplink to the core. Packets flow once it is started.
func (n *Network) attachCore(nd *node) error {
	tun, err := nd.openTUN(device{name: uplinkName, local: nd.address}, nd.mtu)
	if err != nil {
		return err
	}
	nd.wire = newWire(nd.link, n.seed, stream(nd.name), n.pool, tun, n.core.route)
	n.core.routes[nd.address.As4()] = nd.wire.down
	return nil
}

// attachTUN joins nd with its parent by two devices and a wire between them.
func (n *Network) attachTUN(nd *node) error {
	low, err := nd.openTUN(device{name: uplinkName, local: nd.address}, nd.mtu)
	if err != nil {
		return err
	}
	high, err := nd.parent.openTUN(nd.upperEnd(), nd.mtu)
	if err != nil {
		low.Close()
		return err
	}
	w := newWire(nd.link, n.seed, stream(nd.name), n.pool, low, writer(high, n.pool))
	w.devices = append(w.devices, high)
	w.start(low, w.up)
	w.start(high, w.down)
	nd.wire = w
	return nil
}

// attachVeth joins nd with its parent by a veth pair, which is perfect and
// does not pass through this process.
func attachVeth(nd *node) error {
	upper := nd.upperEnd()
	err := nd.parent.ns.do(func() error {
		if err := addVeth(upper.name, nd.ns.fd); err != nil {
			return err
		}
		return upper.configure(nd.mtu)
	})
	if err != nil {
		return err
	}
	lower := device{name: uplinkName, local: nd.address, via: nd.parent.gateway}
	err = nd.ns.do(func() error {
		if err := lower.configure(nd.mtu); err != nil {
			return err
		}
		return waitUp(lower.name)
	})
	if err != nil {
		return err
	}
	return nd.parent.ns.do(func() error { return waitUp(upper.name) })
}

// upperEnd returns the device of nd's link in its parent's namespace.
func (nd *node) upperEnd() device {
	return device{name: insideName(nd.index), local: nd.parent.gateway, peer: nd.address}
}

// openTUN makes a device inside the node.
func (nd *node) openTUN(d device, mtu int) (tun *os.File, err error) {
	err = nd.ns.do(func() error {
		tun, err = openTUN(d.name)
		if err != nil {
			return err
		}
		if err := d.configure(mtu); err != nil {
			tun.Close()
			return err
		}
		return nil
	})
	return tun, err
}

// stream numbers the random choices of a node's link.
func stream(node string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(node))
	return h.Sum64() >> 1
}

// Host returns the host of that name, nil if the scenario has none. It is a
// *Host.
func (n *Network) Host(name string) netsim.Host {
	if h := n.hosts[name]; h != nil {
		return h
	}
	return nil
}

// Reboot makes a NAT forget all mappings.
func (n *Network) Reboot(nat string) error {
	nd := n.nodes[nat]
	if nd == nil || nd.nat == nil {
		return fmt.Errorf("kernel: reboot: no NAT is named %q", nat)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nd.boots++
	nd.nat.first = n.firstPort(nd)
	if err := nd.ns.do(nd.nat.reboot); err != nil {
		return fmt.Errorf("reboot %s: %w", nat, err)
	}
	return nil
}

// firstPort draws where sequential ports begin: in the lower half, so that
// many follow.
func (n *Network) firstPort(nd *node) uint16 {
	rng := rand.New(rand.NewPCG(n.seed+nd.boots, stream(nd.name)))
	return uint16(lowestPort + rng.IntN(ports/2-lowestPort))
}

// SetUplink changes the link between a node and its parent. Packets on their
// way arrive as they would have. The first change of a
// perfect link behind a NAT replaces its devices, which interrupts it for some
// milliseconds; addresses and sockets stay.
func (n *Network) SetUplink(node string, l netsim.Link) error {
	nd := n.nodes[node]
	if nd == nil {
		return fmt.Errorf("kernel: set uplink: no node is named %q", node)
	}
	if err := validateLink(l); err != nil {
		return fmt.Errorf("set uplink of %s: %w", node, err)
	}
	mtu := deviceMTU(l)
	if mtu > n.pool.size {
		return fmt.Errorf("kernel: set uplink of %s: MTU %d is above %d, the most this network was started for", node, mtu, n.pool.size)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return net.ErrClosed
	}
	if nd.wire == nil {
		if l == (netsim.Link{}) {
			return nil
		}
		nd.link, nd.mtu = l, mtu
		upper := nd.upperEnd().name
		if err := nd.parent.ns.do(func() error { return deleteDevice(upper) }); err != nil {
			return fmt.Errorf("set uplink of %s: %w", node, err)
		}
		if err := n.attachTUN(nd); err != nil {
			return fmt.Errorf("set uplink of %s: %w", node, err)
		}
		return nil
	}
	if mtu > nd.mtu {
		if err := nd.setMTU(mtu); err != nil {
			return fmt.Errorf("set uplink of %s: %w", node, err)
		}
	}
	nd.link = l
	nd.wire.set(l)
	return nil
}

// Uplink returns the link between a node and its parent.
func (n *Network) Uplink(node string) (netsim.Link, error) {
	nd := n.nodes[node]
	if nd == nil {
		return netsim.Link{}, fmt.Errorf("kernel: uplink: no node is named %q", node)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return nd.link, nil
}

// Block drops all packets between two nodes on the core, each a NAT or a
// public host, until Unblock: the way between two homes fails while both still
// reach all others.
func (n *Network) Block(a, b string) error { return n.setBlocked(a, b, true) }

// Unblock ends Block.
func (n *Network) Unblock(a, b string) error { return n.setBlocked(a, b, false) }

func (n *Network) setBlocked(a, b string, blocked bool) error {
	var ends [2][4]byte
	for i, name := range []string{a, b} {
		nd := n.nodes[name]
		if nd == nil || nd.parent != nil {
			return fmt.Errorf("kernel: block: no node on the core is named %q", name)
		}
		ends[i] = nd.address.As4()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.core.setBlocked(ends[0], ends[1], blocked)
	return nil
}

// CoreDrops returns how many packets the core has dropped since they had no
// destination on it, and since the way was blocked.
func (n *Network) CoreDrops() (noRoute, blocked uint64) {
	return n.core.noRoute.Load(), n.core.drops.Load()
}

// validateLink checks a link alone by the scenario's rules.
func validateLink(l netsim.Link) error {
	return netsim.Scenario{Hosts: []netsim.HostNode{{Name: "node", Uplink: l}}}.Validate()
}

// setMTU changes the devices at both ends. Network.mu is held.
func (nd *node) setMTU(mtu int) error {
	set := func(name string) func() error {
		return func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return fmt.Errorf("kernel: find device %s: %w", name, err)
			}
			if err := netlink.LinkSetMTU(link, mtu); err != nil {
				return fmt.Errorf("kernel: set MTU %d of %s: %w", mtu, name, err)
			}
			return nil
		}
	}
	if err := nd.ns.do(set(uplinkName)); err != nil {
		return err
	}
	if nd.parent != nil {
		if err := nd.parent.ns.do(set(nd.upperEnd().name)); err != nil {
			return err
		}
	}
	nd.mtu = mtu
	return nil
}

// Counters returns what the link between a node and its parent has done, in
// both directions; all are zero for a perfect link behind a NAT, which does
// not pass through this process.
func (n *Network) Counters(node string) (up, down Counters, err error) {
	nd := n.nodes[node]
	if nd == nil {
		return up, down, fmt.Errorf("kernel: counters: no node is named %q", node)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if nd.wire != nil {
		up, down = nd.wire.up.counters.snapshot(), nd.wire.down.counters.snapshot()
	}
	return up, down, nil
}

// Close ends the network: sockets return net.ErrClosed, processes started by
// Host.Command are killed, namespaces vanish. It returns when all goroutines
// have ended, and may be called twice.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	for _, h := range n.hosts {
		h.closeSockets()
	}
	for _, nd := range n.nodes {
		if nd.wire != nil {
			nd.wire.close()
		}
	}
	for _, nd := range n.nodes {
		nd.ns.close()
	}
	return nil
}

package kernel

import (
	"os"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/netsim"
)

// A wire is a link made of TUN devices that this process reads and writes. On
// the core only the lower end is a device; the upper end is the core itself.
type wire struct {
	up, down *pipe // toward the parent, toward the node
	devices  []*os.File
	readers  sync.WaitGroup
}

// newWire returns a wire whose lower end is the device low. Packets that leave
// it upward go to high. Nothing is read before start.
func newWire(l netsim.Link, seed, stream uint64, pool *packetPool, low *os.File, high func(*packet, time.Time)) *wire {
	w := &wire{devices: []*os.File{low}}
	w.up = newPipe(l, seed, 2*stream, pool, high)
	w.down = newPipe(downward(l), seed, 2*stream+1, pool, writer(low, pool))
	return w
}

// downward returns the direction toward the node.
func downward(l netsim.Link) netsim.Link {
	if l.Down == nil {
		return l
	}
	d := *l.Down
	d.Down = nil
	return d
}

// set changes both directions.
func (w *wire) set(l netsim.Link) {
	w.up.set(l)
	w.down.set(downward(l))
}

// start carries what is read from device into p.
func (w *wire) start(device *os.File, p *pipe) {
	w.readers.Add(1)
	go func() {
		defer w.readers.Done()
		for {
			pkt := p.pool.get()
			n, err := device.Read(pkt.data)
			if err != nil {
				p.pool.put(pkt)
				return // closed
			}
			pkt.data = pkt.data[:n]
			if n < ipv4HeaderSize || pkt.data[0]>>4 != 4 { // IPv6 is off; neighbor discovery may slip out
				p.pool.put(pkt)
				continue
			}
			p.send(pkt, time.Now())
		}
	}()
}

// close removes the devices and ends all goroutines of the wire.
func (w *wire) close() {
	for _, d := range w.devices {
		d.Close()
	}
	w.readers.Wait()
	w.up.close()
	w.down.close()
}

// writer returns what gives packets to the kernel through device. A device
// that is down or gone takes them as a cable would.
func writer(device *os.File, pool *packetPool) func(*packet, time.Time) {
	return func(p *packet, _ time.Time) {
		device.Write(p.data)
		pool.put(p)
	}
}

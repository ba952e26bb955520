package kernel

import "sync"

// A packet is one IP packet on its way through a link. It has one owner at a
// time, who passes it on or puts it back.
type packet struct {
	data []byte // of the packet; its capacity is the pool's size
}

// A packetPool keeps packets for reuse.
type packetPool struct {
	size int // bytes of the largest packet
	pool sync.Pool
}

func newPacketPool(size int) *packetPool {
	pp := &packetPool{size: size}
	pp.pool.New = func() any { return &packet{data: make([]byte, size)} }
	return pp
}

// get returns a packet of the full size, its bytes undefined.
func (pp *packetPool) get() *packet {
	p := pp.pool.Get().(*packet)
	p.data = p.data[:pp.size]
	return p
}

func (pp *packetPool) clone(p *packet) *packet {
	c := pp.get()
	c.data = c.data[:copy(c.data, p.data)]
	return c
}

// put takes back p, which may be nil.
func (pp *packetPool) put(p *packet) {
	if p != nil {
		pp.pool.Put(p)
	}
}

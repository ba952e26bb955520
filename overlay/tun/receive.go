package tun

import (
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/overlay"
)

// HandleIP takes what a member has sent, and gives this computer what the
// filter lets through. It implements [overlay.IPHandler].
func (i *Interface) HandleIP(from overlay.IPMember, buffers [][]byte) {
	now := time.Now()
	p := i.peerOf(from, now)
	if p == nil {
		i.counters.noMember.Add(uint64(len(buffers)))
		return
	}
	scratch := received.Get().(*[][]byte)
	pass := (*scratch)[:0]
	var whole [][]byte // put together from halves
	for _, b := range buffers {
		content := b[overlay.IPRoom:]
		if !isPart(content) {
			if i.accepts(now, p, content) {
				pass = append(pass, b)
			}
			continue
		}
		x, err := parsePart(content)
		if err != nil {
			i.counters.malformed.Add(1)
			continue
		}
		if content = p.parts.add(now, x); content == nil {
			continue
		}
		i.counters.joined.Add(1)
		if i.accepts(now, p, content) {
			whole = append(whole, append(make([]byte, overlay.IPRoom, overlay.IPRoom+len(content)), content...))
		}
	}
	// Which were halves are larger than what the path carries whole, so that
	// both do not come at the same time.
	pass = append(pass, whole...)
	i.write(pass, overlay.IPRoom)
	clear(pass)
	*scratch = pass[:0]
	received.Put(scratch)
}

// received are lists of packets that pass; they hold no state.
var received = sync.Pool{New: func() any { return new([][]byte) }}

// accepts decides on one packet of p's.
func (i *Interface) accepts(now time.Time, p *peer, b []byte) bool {
	c := &i.counters
	x, err := parsePacket(b)
	switch {
	case err != nil:
		c.malformed.Add(1)
		return false
	case !p.member.Has(x.src):
		c.wrongSource.Add(1)
		return false
	case !i.network.Self.Has(x.dst):
		c.notToUs.Add(1)
		return false
	}
	switch p.flows.inbound(now, &x, b, func(port uint16) bool { return i.node.MayOpen(p.member.Peer, port) }) {
	case pass:
		c.received(len(b))
		return true
	case closedByPolicy:
		c.closed.Add(1)
		i.refuse(now, p, &x, b)
	case unrelated:
		c.unrelated.Add(1)
	case unknownPart:
		c.fragments.Add(1)
	}
	return false
}

// refuse tells a peer that its packet met a closed port.
func (i *Interface) refuse(now time.Time, p *peer, x *packet, original []byte) {
	if !x.mayAnswer() || !i.problems.Allow() {
		return
	}
	c := i.carrier(p, now)
	if c == nil {
		return
	}
	b := appendICMPError(make([]byte, sendRoom, sendRoom+maxICMP6), prohibited, 0, x.dst, x.src, original)
	if len(b)-sendRoom > c.MaxContent() {
		b = appendICMPError(b[:sendRoom], prohibited, 0, x.dst, x.src, original[:min(len(original), 128)])
	}
	i.counters.problemsSent.Add(1)
	_, _ = c.Send(0, [][]byte{b}) // it may get lost
}

// write gives packets to this computer.
func (i *Interface) write(packets [][]byte, offset int) {
	if len(packets) == 0 {
		return
	}
	if err := i.device.Write(packets, offset); err != nil && i.ctx.Err() == nil {
		i.counters.deviceErrors.Add(1)
		i.log.Debug("packets not written", "packets", len(packets), "err", err)
	}
}

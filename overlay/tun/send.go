package tun

import (
	"errors"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// sendRoom is how many bytes are free before a packet that is to be sent: one
// for the datagram's kind.
const sendRoom = 1

// A sender takes the packets of one read of the device and sends those that
// belong together, as the segments of one GSO packet do, in one go. It belongs
// to one goroutine.
type sender struct {
	i    *Interface
	run  [][]byte // of one flow, each with sendRoom in front
	last packet   // of run
	to   *peer
	half [][]byte // scratch for halves of packets
}

func newSender(i *Interface) *sender { return &sender{i: i} }

// add takes a packet, with sendRoom in front. The buffer may be used again
// after flush.
func (s *sender) add(now time.Time, b []byte) {
	i := s.i
	p, err := parsePacket(b[sendRoom:])
	if err != nil {
		i.counters.malformed.Add(1)
		return
	}
	if len(s.run) > 0 && s.last.sameFlow(&p) {
		s.to.flows.outbound(now, &p)
		s.run = append(s.run, b)
		return
	}
	s.flush(now)
	if p.dst.IsMulticast() || p.dst.IsLinkLocalUnicast() {
		i.counters.multicast.Add(1)
		return
	}
	if !i.network.Self.Has(p.src) {
		i.counters.notFromUs.Add(1)
		return
	}
	to := i.peerAt(p.dst, now)
	if to == nil {
		i.counters.noMember.Add(1)
		i.answer(b[sendRoom:], hostUnreachable, 0)
		return
	}
	to.flows.outbound(now, &p)
	s.run, s.last, s.to = append(s.run, b), p, to
}

// sameFlow reports whether q is of the same flow as p.
func (p *packet) sameFlow(q *packet) bool {
	return p.srcPort == q.srcPort && p.dstPort == q.dstPort && p.proto == q.proto && p.dst == q.dst && p.src == q.src && p.fragment == q.fragment
}

// flush sends what add has taken.
func (s *sender) flush(now time.Time) {
	if len(s.run) == 0 {
		return
	}
	to := s.to
	if c := s.i.carrier(to, now); c != nil {
		s.sendAll(now, c, to, s.run, s.last.outboundKey().queue())
	} else {
		s.i.wait(to, now, s.run)
	}
	clear(s.run)
	s.run, s.to = s.run[:0], nil
}

// send sends one packet, with sendRoom in front.
func (s *sender) send(now time.Time, to *peer, c carrier, b []byte) {
	p, err := parsePacket(b[sendRoom:])
	if err != nil {
		return
	}
	s.sendAll(now, c, to, [][]byte{b}, p.outboundKey().queue())
}

// sendAll sends packets of one flow. Those that are larger than the session's
// datagrams go as halves, which all have one size.
func (s *sender) sendAll(now time.Time, c carrier, to *peer, list [][]byte, flow uint32) {
	counters := &s.i.counters
	for len(list) > 0 {
		n, err := c.Send(flow, list)
		for _, b := range list[:n] {
			counters.sent(len(b) - sendRoom)
		}
		list = list[n:]
		if err == nil {
			continue
		}
		if !errors.Is(err, ri2n.ErrDatagramTooLarge) {
			counters.unreachable.Add(uint64(len(list)))
			return
		}
		most := c.MaxContent()
		large := 0
		for large < len(list) && len(list[large])-sendRoom > most {
			large++
		}
		if large == 0 && !s.retry(&most, c, list[0]) {
			return
		}
		s.sendHalves(now, c, to, list[:large], flow, most)
		list = list[large:]
	}
}

// retry is for a session whose datagrams have just grown or shrunk: it reports
// whether there is a size that the packet b may be tried with.
func (s *sender) retry(most *int, c carrier, b []byte) bool {
	*most = c.MaxContent()
	return *most > partHeaderLen && len(b)-sendRoom <= *most
}

// sendHalves sends packets that are larger than most in two datagrams each.
func (s *sender) sendHalves(now time.Time, c carrier, to *peer, list [][]byte, flow uint32, most int) {
	i := s.i
	halves := s.half[:0]
	for _, b := range list {
		p := b[sendRoom:]
		middle := (len(p) + 1) / 2
		if partHeaderLen+middle > most {
			i.counters.tooBig.Add(1)
			i.answer(p, tooBig, 2*(most-partHeaderLen))
			continue
		}
		id := uint16(to.partID.Add(1))
		for k, data := range [2][]byte{p[:middle], p[middle:]} {
			h := make([]byte, sendRoom, sendRoom+partHeaderLen+len(data))
			halves = append(halves, appendPart(h, part{second: k == 1, id: id, data: data}))
		}
		i.counters.split.Add(1)
		i.counters.sent(len(p))
	}
	if len(halves) > 0 {
		if n, _ := c.Send(flow, halves); n < len(halves) {
			i.counters.unreachable.Add(uint64(len(halves)-n+1) / 2)
		}
	}
	clear(halves)
	s.half = halves[:0]
}

// answer tells this computer that a packet of its own was not sent, as a router
// on the way would. The answer comes from where the packet was to go, since an
// address of ours would be taken for a forgery.
func (i *Interface) answer(original []byte, problem icmpProblem, mtu int) {
	p, err := parsePacket(original)
	if err != nil || !p.mayAnswer() || !i.problems.Allow() {
		return
	}
	b := appendICMPError(make([]byte, vnetRoom, vnetRoom+maxICMP6), problem, mtu, p.dst, p.src, original)
	i.counters.problemsSent.Add(1)
	i.write([][]byte{b}, vnetRoom)
}

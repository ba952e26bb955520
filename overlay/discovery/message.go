package discovery

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// ourTTL is the life of our records: what RFC 6762, section 10, advises for
	// those that name a host. One that vanishes without a word is forgotten
	// after it.
	ourTTL = 120 * time.Second
	// legacyTTL is told to resolvers that know nothing of multicast (RFC 6762,
	// section 6.7).
	legacyTTL = 10 * time.Second
	// topBit of a class asks for a unicast answer in a question, and flushes
	// caches in an answer (RFC 6762, sections 5.4 and 10.2).
	topBit = 1 << 15

	serviceTypes = "_services._dns-sd._udp.local."
	txtVersion   = "v=1"

	maxQuestions = 16 // looked at in one message
	maxInstances = 64 // taken from one message
	maxKnown     = 20 // known answers in one question, so that it fits into a packet
)

// Self is what a node tells about itself.
type Self struct {
	Grid  membership.GridID
	Peer  ri2n.PeerID
	Name  string // of the member; empty: the short peer ID
	State State

	// Port returns the UDP port at which the node is reached at one of this
	// computer's addresses, zero if it is not reached there. It must not block.
	Port func(netip.Addr) uint16
}

// hostOf is the host name in a node's records. It is made of the peer ID, so
// that the computer's own name stays at home and no two nodes have one.
func hostOf(p ri2n.PeerID) string { return "grid-" + p.String()[:16] + ".local." }

// An announcement is a node's records on one attachment.
type announcement struct {
	self  Self
	label string // of the service instance
	addr  netip.Addr
	port  uint16
}

func (a *announcement) instance(s State) string { return a.label + "." + s.service() }

func record(name string, kind, class uint16, ttl time.Duration) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: class, Ttl: uint32(ttl / time.Second)}
}

// unique is the class of records that nobody else has: caches flush old ones.
func unique(legacy bool) uint16 {
	if legacy {
		return dns.ClassINET
	}
	return dns.ClassINET | topBit
}

func (a *announcement) pointer(ttl time.Duration) dns.RR {
	s := a.self.State
	return &dns.PTR{Hdr: record(s.service(), dns.TypePTR, dns.ClassINET, ttl), Ptr: a.instance(s)}
}

func (a *announcement) service(s State, ttl time.Duration, legacy bool) dns.RR {
	return &dns.SRV{Hdr: record(a.instance(s), dns.TypeSRV, unique(legacy), ttl), Port: a.port, Target: hostOf(a.self.Peer)}
}

// kind is the record that tells of the service's type (RFC 6763, section 9).
func (a *announcement) kind(ttl time.Duration) dns.RR {
	return &dns.PTR{Hdr: record(serviceTypes, dns.TypePTR, dns.ClassINET, ttl), Ptr: a.self.State.service()}
}

func (a *announcement) text(ttl time.Duration, legacy bool) dns.RR {
	return &dns.TXT{
		Hdr: record(a.instance(a.self.State), dns.TypeTXT, unique(legacy), ttl),
		Txt: []string{txtVersion, "grid=" + a.self.Grid.String(), "peer=" + a.self.Peer.String()},
	}
}

func (a *announcement) address(ttl time.Duration, legacy bool) dns.RR {
	return &dns.A{Hdr: record(hostOf(a.self.Peer), dns.TypeA, unique(legacy), ttl), A: a.addr.AsSlice()}
}

// all returns every record of the service; ttl zero withdraws it.
func (a *announcement) all(ttl time.Duration, legacy bool) []dns.RR {
	return []dns.RR{a.pointer(ttl), a.service(a.self.State, ttl, legacy), a.text(ttl, legacy)}
}

// answers returns what we have for a question, and what helps with it.
func (a *announcement) answers(q dns.Question, ttl time.Duration, legacy bool) (answer, more []dns.RR) {
	class := q.Qclass &^ topBit
	if class != dns.ClassINET && class != dns.ClassANY {
		return nil, nil
	}
	wants := func(kind uint16) bool { return q.Qtype == kind || q.Qtype == dns.TypeANY }
	s := a.self.State
	srv, txt, addr := a.service(s, ttl, legacy), a.text(ttl, legacy), a.address(ttl, legacy)
	switch {
	case strings.EqualFold(q.Name, serviceTypes) && wants(dns.TypePTR):
		return []dns.RR{a.kind(ttl)}, nil
	case strings.EqualFold(q.Name, s.service()) && wants(dns.TypePTR):
		return []dns.RR{a.pointer(ttl)}, []dns.RR{srv, txt, addr}
	case strings.EqualFold(q.Name, a.instance(s)):
		if wants(dns.TypeSRV) {
			answer = append(answer, srv)
			more = append(more, addr)
		}
		if wants(dns.TypeTXT) {
			answer = append(answer, txt)
		}
		return answer, more
	case strings.EqualFold(q.Name, hostOf(a.self.Peer)) && wants(dns.TypeA):
		return []dns.RR{addr}, nil
	}
	return nil, nil
}

// response is an unsolicited or multicast answer.
func response(answer, more []dns.RR) *dns.Msg {
	return &dns.Msg{
		MsgHdr:   dns.MsgHdr{Response: true, Authoritative: true},
		Compress: true, Answer: answer, Extra: more,
	}
}

// probe asks whether anybody has our names (RFC 6762, section 8.1), those of all
// states at once, so that a change of state need not.
func (a *announcement) probe() *dns.Msg {
	m := &dns.Msg{Compress: true}
	for s := range states {
		m.Question = append(m.Question, dns.Question{Name: a.instance(s), Qtype: dns.TypeANY, Qclass: dns.ClassINET})
		m.Ns = append(m.Ns, a.service(s, ourTTL, true)) // the class without its top bit: section 8.2
	}
	return m
}

// browse asks for the services of all states.
func browse(known []dns.RR) *dns.Msg {
	m := &dns.Msg{Compress: true, Answer: known}
	for s := range states {
		m.Question = append(m.Question, dns.Question{Name: s.service(), Qtype: dns.TypePTR, Qclass: dns.ClassINET})
	}
	return m
}

// knows reports whether a question holds our pointer, with enough life left, so
// that no answer is wanted (RFC 6762, section 7.1).
func knows(m *dns.Msg, a *announcement) bool {
	want := a.instance(a.self.State)
	return slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
		p, ok := rr.(*dns.PTR)
		return ok && strings.EqualFold(p.Ptr, want) && time.Duration(p.Hdr.Ttl)*time.Second >= ourTTL/2
	})
}

// A claim is one service that a message announces or withdraws.
type claim struct {
	label string
	state State
	gone  bool // withdrawn
	grid  membership.GridID
	peer  ri2n.PeerID
	port  uint16
	ttl   time.Duration
}

// claims returns the services in a response. Only a message that tells port and
// text of a service announces it: that is how nodes write them. Bad counts what
// is not.
func claims(m *dns.Msg) (list []claim, bad int) {
	type parts struct {
		label string
		state State
		srv   *dns.SRV
		txt   *dns.TXT
		gone  bool
	}
	var found []parts
	at := func(name string) *parts {
		label, s, ok := stateOf(name)
		if !ok {
			return nil
		}
		for i := range found {
			if found[i].label == label && found[i].state == s {
				return &found[i]
			}
		}
		if len(found) >= maxInstances {
			bad++
			return nil
		}
		found = append(found, parts{label: label, state: s})
		return &found[len(found)-1]
	}
	for _, section := range [][]dns.RR{m.Answer, m.Extra} {
		for _, rr := range section {
			switch rr := rr.(type) {
			case *dns.PTR:
				if rr.Hdr.Ttl == 0 {
					if p := at(rr.Ptr); p != nil {
						p.gone = true
					}
				}
			case *dns.SRV:
				if p := at(rr.Hdr.Name); p != nil {
					p.srv = rr
				}
			case *dns.TXT:
				if p := at(rr.Hdr.Name); p != nil {
					p.txt = rr
				}
			}
		}
	}
	for _, p := range found {
		c := claim{label: p.label, state: p.state}
		switch {
		case p.gone || p.srv != nil && p.srv.Hdr.Ttl == 0:
			c.gone = true
		case p.srv == nil || p.txt == nil:
			continue
		default:
			if !c.parse(p.srv, p.txt) {
				bad++
				continue
			}
		}
		list = append(list, c)
	}
	return list, bad
}

// parse takes in a service's records and reports whether they are a node's.
func (c *claim) parse(srv *dns.SRV, txt *dns.TXT) bool {
	c.port = srv.Port
	c.ttl = time.Duration(min(srv.Hdr.Ttl, txt.Hdr.Ttl)) * time.Second
	version := false
	for _, s := range txt.Txt {
		key, value, _ := strings.Cut(s, "=")
		var err error
		switch key {
		case "v":
			version = s == txtVersion
		case "grid":
			c.grid, err = membership.ParseGridID(value)
		case "peer":
			c.peer, err = ri2n.ParsePeerID(value)
		}
		if err != nil {
			return false
		}
	}
	return version && !c.grid.IsZero() && !c.peer.IsZero() && c.port >= leastPort
}

// leastPort is the lowest port that an announcement may name: services of the
// system live below.
const leastPort = 1024

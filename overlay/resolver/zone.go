package resolver

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// answerTTL is how long a record may be kept, in seconds: a revocation takes
	// as long to be known everywhere. missingTTL is that of what does not exist.
	answerTTL  = 60
	missingTTL = 5
	top        = "grid."
	// maxServers bounds the SRV records for a whole grid.
	maxServers = 16
)

// A zone holds the records of a grid at one moment.
type zone struct {
	grid    string // its name; empty: none
	members []overlay.MemberStatus
	offers  map[ri2n.PeerID][]overlay.Offer // of those that were asked
}

func (s *Server) zone() zone {
	return zone{grid: s.cfg.Grid.GridName(), members: s.cfg.Grid.KnownMembers()}
}

// apex is the name of the grid's zone.
func (z zone) apex() string {
	if z.grid == "" {
		return top
	}
	return z.grid + "." + top
}

// holds reports whether a name is one that we answer for: below .grid, or the
// reverse name of a member's address.
func (z zone) holds(name string) bool {
	name = strings.ToLower(dns.Fqdn(name))
	if name == top || strings.HasSuffix(name, "."+top) {
		return true
	}
	ip, ok := reversed(name)
	return ok && z.covers(ip)
}

// covers reports whether an address lies in the networks of the grid, as far as
// its members tell: the /48 of their IPv6 addresses, and the IPv4 addresses that
// they have.
func (z zone) covers(ip netip.Addr) bool {
	for _, m := range z.members {
		if m.Address == ip || ip.Is6() && netip.PrefixFrom(m.Address6, 48).Masked().Contains(ip) {
			return true
		}
	}
	return false
}

// mayAppear reports whether a name that does not exist is one that a new member
// could have.
func (z zone) mayAppear(name string) bool {
	_, owner, ok := z.split(strings.ToLower(dns.Fqdn(name)))
	return ok && owner != ""
}

// split parts a name below the grid's zone: "_ssh._tcp.alice.lab.grid." is the
// service "_ssh._tcp." of alice. The owner of the zone's own name is empty.
func (z zone) split(name string) (service, owner string, ok bool) {
	rest, ok := strings.CutSuffix(name, top)
	if !ok {
		return "", "", false
	}
	if strings.HasPrefix(rest, "_") {
		labels := strings.SplitN(rest, ".", 3)
		if len(labels) < 3 || !strings.HasPrefix(labels[1], "_") {
			return "", "", false
		}
		service, rest = labels[0]+"."+labels[1]+".", labels[2]
	}
	rest = strings.TrimSuffix(rest, ".")
	if _, err := ri2n.ParsePeerID(rest); err == nil {
		return service, rest, true
	}
	if z.grid == "" {
		return "", "", false
	}
	if rest == z.grid {
		return service, "", true
	}
	owner, ok = strings.CutSuffix(rest, "."+z.grid)
	return service, owner, ok && !strings.Contains(owner, ".")
}

func (z zone) member(owner string) *overlay.MemberStatus {
	for i := range z.members {
		if z.members[i].Name == owner || z.members[i].Peer.String() == owner {
			return &z.members[i]
		}
	}
	return nil
}

// answer adds the records for x to m, and reports whether the name exists.
func (z zone) answer(m *dns.Msg, x dns.Question) bool {
	name := strings.ToLower(dns.Fqdn(x.Name))
	add := func(rr dns.RR) { m.Answer = append(m.Answer, rr) }
	head := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: x.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: answerTTL}
	}
	if ip, ok := reversed(name); ok {
		for _, member := range z.members {
			if member.Address == ip || member.Address6 == ip {
				if x.Qtype == dns.TypePTR {
					add(&dns.PTR{Hdr: head(dns.TypePTR), Ptr: z.full(member.Name)})
				}
				return true
			}
		}
		return false
	}
	if name == top {
		return true // there is nothing at it, and something below
	}
	service, owner, ok := z.split(name)
	if !ok {
		return false
	}
	if service != "" {
		return z.services(m, x, service, owner)
	}
	if owner == "" {
		switch x.Qtype {
		case dns.TypeSOA:
			add(z.soa())
		case dns.TypeNS:
			add(&dns.NS{Hdr: head(dns.TypeNS), Ns: "ns." + z.apex()})
		case dns.TypeTXT:
			add(&dns.TXT{Hdr: head(dns.TypeTXT), Txt: []string{"grid=" + z.grid, fmt.Sprintf("members=%d", len(z.members))}})
		}
		return true
	}
	member := z.member(owner)
	if member == nil {
		return false
	}
	switch x.Qtype {
	case dns.TypeA:
		if member.Address.Is4() {
			add(&dns.A{Hdr: head(dns.TypeA), A: net.IP(member.Address.AsSlice())})
		}
	case dns.TypeAAAA:
		if member.Address6.Is6() {
			add(&dns.AAAA{Hdr: head(dns.TypeAAAA), AAAA: net.IP(member.Address6.AsSlice())})
		}
	case dns.TypeTXT:
		add(&dns.TXT{Hdr: head(dns.TypeTXT), Txt: []string{"peer=" + member.Peer.String(), "roles=" + member.Roles.String()}})
	}
	return true
}

// services answers for "_ssh._tcp.": where the member, or each member, offers the
// service. Where none says that it does, a number is a port, and a name stands for
// its usual port, since what listens behind a network interface is not known here.
func (z zone) services(m *dns.Msg, x dns.Question, service, owner string) bool {
	labels := strings.Split(service, ".")
	name, protocol := strings.TrimPrefix(labels[0], "_"), strings.TrimPrefix(labels[1], "_")
	var list []overlay.MemberStatus
	if owner == "" {
		list = z.members[:min(len(z.members), maxServers)]
	} else if member := z.member(owner); member != nil {
		list = []overlay.MemberStatus{*member}
	}
	servers := z.offering(list, name, protocol)
	if len(servers) == 0 {
		port, ok := portOf(name, protocol)
		if !ok {
			return false
		}
		for _, member := range list {
			servers = append(servers, server{member, port})
		}
	}
	if len(servers) == 0 {
		return false
	}
	if x.Qtype != dns.TypeSRV {
		return true
	}
	for i, s := range servers {
		target := z.full(s.member.Name)
		m.Answer = append(m.Answer, &dns.SRV{
			Hdr:  dns.RR_Header{Name: x.Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: answerTTL},
			Port: s.port, Target: target,
		})
		if i == 0 && s.member.Address.Is4() && len(list) == 1 {
			m.Extra = append(m.Extra, &dns.A{
				Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: answerTTL},
				A:   net.IP(s.member.Address.AsSlice()),
			})
		}
	}
	return true
}

// A server is a port of a member.
type server struct {
	member overlay.MemberStatus
	port   uint16
}

// offering returns who of list offers a service, at most maxServers.
func (z zone) offering(list []overlay.MemberStatus, name, protocol string) (servers []server) {
	for _, member := range list {
		for _, o := range z.offers[member.Peer] {
			if o.Name == name && o.Network == protocol && len(servers) < maxServers {
				servers = append(servers, server{member, o.Port})
			}
		}
	}
	return servers
}

// portOf returns the port of a service by number, or by the name that this
// computer knows it by.
func portOf(service, protocol string) (uint16, bool) {
	if protocol != "tcp" && protocol != "udp" || service == "" {
		return 0, false
	}
	if port, err := strconv.ParseUint(service, 10, 16); err == nil {
		return uint16(port), port != 0
	}
	port, err := net.LookupPort(protocol, service)
	return uint16(port), err == nil && port > 0
}

func (z zone) full(name string) string { return name + "." + z.apex() }

// soa is the record that says how long what does not exist may be kept.
func (z zone) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: z.apex(), Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: missingTTL},
		Ns:  "ns." + z.apex(), Mbox: "admin." + z.apex(),
		Serial: 1, Refresh: answerTTL, Retry: answerTTL, Expire: answerTTL, Minttl: missingTTL,
	}
}

// reversed decodes the reverse name of an address.
func reversed(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		ip, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return ip, err == nil
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(labels) != 63 {
		return netip.Addr{}, false
	}
	var text []byte
	for i := 62; i >= 0; i -= 2 {
		text = append(text, labels[i])
		if len(text)%5 == 4 && i > 0 {
			text = append(text, ':')
		}
		if i > 0 && labels[i-1] != '.' {
			return netip.Addr{}, false
		}
	}
	ip, err := netip.ParseAddr(string(text))
	return ip, err == nil
}

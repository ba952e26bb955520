package kernel

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/instantgrid/instantgrid/netsim"
	"golang.org/x/sys/unix"
)

// A mapping is the state of a NAT whose own rules read and fill it, without
// connection tracking, in these tables:
//
//	outer    inside address, port [, remote address [, port]]  ->  outside port
//	inner    outside port                                      ->  inside address, port
//	taken    outside port
//	remotes  outside port, remote address [, port]
//
// The key of outer is what the mapping depends on, that of remotes what the
// filter depends on. Outbound packets fill and refresh them; what is idle for
// the lifetime is gone. The keys of taken are those of inner: only a set
// without data can be asked for what is not in it.
type mapping struct {
	nat                 netsim.NAT
	outer, inner, taken *nftables.Set
	remotes             *nftables.Set // nil where anybody is let in
}

// Registers of the rules below. Each rule loads what it uses: the kernel
// promises nothing across rules.
const (
	regInside  = reg0 // address, port; then the remote's where outer wants them
	regOutside = reg4 // port; then the remote's address and port for remotes
	regScratch = reg7
)

const (
	ports       = 1 << 16
	lowestPort  = 1024      // that is drawn
	maxMappings = ports - 1 // entries in each table
	draws       = 4         // of a port before one is used that is taken
)

// field is a part of an IPv4 packet with UDP.
type field struct {
	base     expr.PayloadBase
	offset   uint32
	len      uint32
	checksum uint32 // offset of the one that covers it, in the same header
	flags    uint32
}

// RFC 791, section 3.1, and RFC 768. Addresses are part of the UDP checksum,
// too.
var (
	sourceAddress      = field{expr.PayloadBaseNetworkHeader, 12, 4, 10, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR}
	destinationAddress = field{expr.PayloadBaseNetworkHeader, ipv4DestinationOffset, 4, 10, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR}
	sourcePort         = field{expr.PayloadBaseTransportHeader, 0, 2, 6, 0}
	destinationPort    = field{expr.PayloadBaseTransportHeader, 2, 2, 6, 0}
)

// load puts fields into consecutive registers.
func load(first uint32, fields ...field) []expr.Any {
	var out []expr.Any
	for i, f := range fields {
		out = append(out, &expr.Payload{
			OperationType: expr.PayloadLoad, DestRegister: first + uint32(i),
			Base: f.base, Offset: f.offset, Len: f.len,
		})
	}
	return out
}

// store overwrites a field.
func store(reg uint32, f field) []expr.Any {
	return []expr.Any{&expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: reg,
		Base: f.base, Offset: f.offset, Len: f.len,
		CsumType: expr.CsumTypeInet, CsumOffset: f.checksum, CsumFlags: f.flags,
	}}
}

// addMapping adds the tables and the rules for UDP.
func (r router) addMapping(b *ruleset) error {
	m, err := newMapping(b, r.nat)
	if err != nil {
		return fmt.Errorf("kernel: tables of mappings: %w", err)
	}
	raw := b.base("untracked", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	b.rule(raw, ifUDP(), []expr.Any{&expr.Notrack{}})

	translate := b.chain("translate")
	b.rule(translate, m.outbound(r))
	r.addAllocation(b, m)
	mapped := b.chain("mapped")
	b.rule(mapped, m.loadKey(), lookup(m.outer, regInside, regOutside), verdict(expr.VerdictGoto, "translate"))
	b.rule(mapped, verdict(expr.VerdictGoto, "allocate"))

	out := b.base("outbound", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, nftables.ChainPriorityFilter)
	b.rule(out, toUplink(), ifUDP(), verdict(expr.VerdictGoto, mapped.Name))

	in := b.base("inbound", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	if r.nat.Hairpinning {
		// First outbound, then inbound as if it came from outside.
		b.rule(in, ifDevice(expr.MetaKeyIIFNAME, expr.CmpOpNeq, uplinkName), ifUDP(), r.ifToOutside(),
			verdict(expr.VerdictJump, mapped.Name))
		b.rule(in, ifUDP(), r.ifToOutside(), m.inbound())
		return nil
	}
	b.rule(in, fromUplink(), ifUDP(), m.inbound())
	return nil
}

// ifToOutside matches packets to the router's outside address.
func (r router) ifToOutside() []expr.Any {
	addr := r.outside.As4()
	return append(load(reg0, destinationAddress), &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: addr[:]})
}

func newMapping(b *ruleset, nat netsim.NAT) (*mapping, error) {
	m := &mapping{nat: nat}
	port, addr := nftables.TypeInetService, nftables.TypeIPAddr
	endpoint := []nftables.SetDatatype{addr, port}
	var err error
	m.inner, err = b.set("inner", nat, []nftables.SetDatatype{port}, endpoint)
	if err != nil {
		return nil, err
	}
	m.outer, err = b.set("outer", nat, append(endpoint, endpoint[:nat.Mapping]...), []nftables.SetDatatype{port})
	if err != nil {
		return nil, err
	}
	m.taken, err = b.set("taken", nat, []nftables.SetDatatype{port}, nil)
	if err != nil || nat.Filtering == netsim.EndpointIndependent {
		return m, err
	}
	m.remotes, err = b.set("remotes", nat, append([]nftables.SetDatatype{port}, endpoint[:nat.Filtering]...), nil)
	return m, err
}

// set adds a table that rules fill; with data it is a map.
func (b *ruleset) set(name string, nat netsim.NAT, key, data []nftables.SetDatatype) (*nftables.Set, error) {
	concat := func(types []nftables.SetDatatype) (nftables.SetDatatype, error) {
		if len(types) == 1 {
			return types[0], nil
		}
		return nftables.ConcatSetType(types...)
	}
	b.sets++
	s := &nftables.Set{
		Table: b.table, Name: name, ID: b.sets,
		Dynamic: true, HasTimeout: true, Timeout: lifetime(nat), Size: maxMappings,
		Concatenation: len(key) > 1,
	}
	var err error
	if s.KeyType, err = concat(key); err != nil {
		return nil, err
	}
	if data != nil {
		s.IsMap = true
		if s.DataType, err = concat(data); err != nil {
			return nil, err
		}
	}
	return s, b.conn.AddSet(s, nil)
}

// lookup finds key in a table and goes on only where it is there. A map's data
// goes to the register data.
func lookup(s *nftables.Set, key, data uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{
		SourceRegister: key, DestRegister: data, IsDestRegSet: s.IsMap,
		SetName: s.Name, SetID: s.ID,
	}}
}

// refresh adds an entry or starts its lifetime anew; it never changes the data
// of one that is there.
func refresh(s *nftables.Set, key, data uint32) []expr.Any {
	d := &expr.Dynset{
		SrcRegKey: key, SetName: s.Name, SetID: s.ID,
		Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: s.Timeout,
	}
	if s.IsMap {
		d.SrcRegData = data
	}
	return []expr.Any{d}
}

// loadKey loads the key of outer for an outbound packet.
func (m *mapping) loadKey() []expr.Any {
	return load(regInside, append([]field{sourceAddress, sourcePort},
		[]field{destinationAddress, destinationPort}[:m.nat.Mapping]...)...)
}

// outbound translates a packet whose mapping is in outer.
func (m *mapping) outbound(r router) []expr.Any {
	var out []expr.Any
	add := func(e []expr.Any) { out = append(out, e...) }
	add(m.loadKey())
	add(lookup(m.outer, regInside, regOutside))
	add(refresh(m.outer, regInside, regOutside))
	add(refresh(m.inner, regOutside, regInside))
	add(refresh(m.taken, regOutside, 0))
	add(store(regOutside, sourcePort))
	if m.remotes != nil {
		add(load(regOutside, append([]field{sourcePort},
			[]field{destinationAddress, destinationPort}[:m.nat.Filtering]...)...))
		add(refresh(m.remotes, regOutside, 0))
	}
	addr := r.outside.As4()
	add([]expr.Any{&expr.Immediate{Register: regScratch, Data: addr[:]}})
	add(store(regScratch, sourceAddress))
	return out
}

// inbound translates a packet that the filter lets in.
func (m *mapping) inbound() []expr.Any {
	var out []expr.Any
	add := func(e []expr.Any) { out = append(out, e...) }
	add(load(regOutside, append([]field{destinationPort},
		[]field{sourceAddress, sourcePort}[:m.nat.Filtering]...)...))
	if m.remotes != nil {
		add(lookup(m.remotes, regOutside, 0))
	}
	add(lookup(m.inner, regOutside, regInside))
	if m.nat.InboundRefresh {
		add(refresh(m.inner, regOutside, regInside))
		add(refresh(m.taken, regOutside, 0))
		add(load(regInside+2, []field{sourceAddress, sourcePort}[:m.nat.Mapping]...))
		add(refresh(m.outer, regInside, regOutside))
	}
	add(store(regInside+1, destinationPort))
	add(store(regInside, destinationAddress))
	return out
}

// addAllocation adds the rules that give a packet without a mapping one and
// translate it.
func (r router) addAllocation(b *ruleset, m *mapping) {
	allocate := b.chain("allocate")
	try := func(port ...[]expr.Any) {
		b.rule(allocate, append(port,
			m.loadKey(), refresh(m.outer, regInside, regOutside), verdict(expr.VerdictGoto, "translate"))...)
	}
	free := []expr.Any{&expr.Lookup{
		SourceRegister: regOutside, SetName: m.taken.Name, SetID: m.taken.ID, Invert: true,
	}}
	next := draw(unix.NFT_NG_RANDOM, lowestPort)
	switch r.nat.Allocation {
	case netsim.Preserving:
		try(load(regOutside, sourcePort), free)
	case netsim.Sequential:
		next = draw(unix.NFT_NG_INCREMENTAL, uint32(r.first))
	}
	for range draws - 1 {
		try(next, free)
	}
	try(next)
}

// draw puts a port from lowest up into regOutside.
func draw(kind, lowest uint32) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: regOutside, Type: kind, Modulus: ports - lowest, Offset: lowest},
		// From a number of 32 bits in the order of the machine, which is taken
		// to be little-endian, to a port.
		&expr.Byteorder{
			SourceRegister: regOutside, DestRegister: regOutside,
			Op: expr.ByteorderHton, Len: 2, Size: 2,
		},
	}
}

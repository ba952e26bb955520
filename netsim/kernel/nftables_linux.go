package kernel

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tableName is that of the one table in a NAT's namespace.
const tableName = "netsim"

// forever stands for a lifetime without end. Connection tracking counts it in
// clock ticks of 32 bits.
const forever = 1_000_000 * time.Second

// lifetime returns the lifetime of the NAT's mappings.
func lifetime(n netsim.NAT) time.Duration {
	switch {
	case n.Lifetime == 0:
		return 2 * time.Minute
	case n.Lifetime < 0:
		return forever
	}
	return min(forever, n.Lifetime)
}

// A router is the NAT of one namespace. Its methods run on that namespace's
// thread.
type router struct {
	nat     netsim.NAT
	outside netip.Addr
	first   uint16 // the first port of sequential allocation
}

// install makes a router of the namespace.
func (r router) install() error {
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if r.nat.Hairpinning {
		// Its own outside address is then a source of what insiders send.
		if err := setSysctl("net/ipv4/conf/all/accept_local", "1"); err != nil {
			return err
		}
	}
	if err := r.reload(); err != nil {
		return err
	}
	seconds := strconv.Itoa(int((lifetime(r.nat) + time.Second - 1) / time.Second))
	for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		if err := setSysctl("net/netfilter/"+name, seconds); err != nil {
			return err
		}
	}
	return nil
}

// reboot makes the router forget all mappings.
func (r router) reboot() error {
	if err := r.reload(); err != nil {
		return err
	}
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return notPermitted("flushing connection tracking", err)
	}
	return nil
}

// reload replaces all rules and their tables in one step.
func (r router) reload() error {
	conn, err := nftables.New()
	if err != nil {
		return notPermitted("nftables", err)
	}
	// Added so that it can be deleted, whether it was there or not.
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	b := &ruleset{conn: conn, table: table}
	r.addFirewall(b)
	if !tracked(r.nat) {
		if err := r.addMapping(b); err != nil {
			return err
		}
	}
	r.addTracking(b)
	if err := conn.Flush(); err != nil {
		return notPermitted("nftables NAT", err)
	}
	return nil
}

// addFirewall drops what nobody inside has asked for.
func (r router) addFirewall(b *ruleset) {
	// What arrives at the router itself and answers nothing is dropped, as
	// home routers do. Were it accepted, an early packet of a peer would
	// confirm a conntrack entry, and the insider's own packet to that peer
	// would then leave from another port.
	input := b.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	b.rule(input,
		ifTracked(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept, ""))
	b.rule(input,
		ifDevice(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), verdict(expr.VerdictDrop, ""))

	forward := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	b.rule(forward,
		fromUplink(), ifTracked(expr.CtStateBitNEW|expr.CtStateBitINVALID), verdict(expr.VerdictDrop, ""))
}

// addTracking translates by connection tracking what has not been translated
// otherwise.
func (r router) addTracking(b *ruleset) {
	post := b.base("tracked", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	addr := r.outside.As4()
	b.rule(post, toUplink(), []expr.Any{
		&expr.Immediate{Register: reg0, Data: addr[:]},
		&expr.NAT{
			Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0,
			FullyRandom: r.nat.Allocation == netsim.Random,
		},
	})
}

// A ruleset collects the chains and rules of one table.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  uint32 // made so far
}

// base adds a chain that the kernel calls at a hook.
func (b *ruleset) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, at *nftables.ChainPriority) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: kind, Hooknum: hook, Priority: at})
}

// chain adds a chain that rules go to.
func (b *ruleset) chain(name string) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table})
}

func (b *ruleset) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: all})
}

// Registers of 32 bits. Values wider than one fill those that follow.
const (
	reg0 = unix.NFT_REG32_00 + iota
	reg1
	reg2
	reg3
	reg4
	reg5
	reg6
	reg7
)

func ifDevice(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg0},
		&expr.Cmp{Op: op, Register: reg0, Data: padded},
	}
}

func fromUplink() []expr.Any { return ifDevice(expr.MetaKeyIIFNAME, expr.CmpOpEq, uplinkName) }
func toUplink() []expr.Any   { return ifDevice(expr.MetaKeyOIFNAME, expr.CmpOpEq, uplinkName) }

func ifUDP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{unix.IPPROTO_UDP}},
	}
}

// ifTracked matches packets whose connection is in one of the states.
func ifTracked(states uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		&expr.Bitwise{
			SourceRegister: reg0, DestRegister: reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(states), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
}

// verdict ends a rule; to is the chain of a goto.
func verdict(kind expr.VerdictKind, to string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: to}}
}

package kernel

import (
	"net/netip"
	"time"

	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/instantgrid/instantgrid/netsim"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tableName is that of the one table in a NAT's namespace.
const tableName = "netsim"

// foreverSeconds stands for a mapping without end: eleven days. Connection
// tracking has no such notion.
const foreverSeconds = 1_000_000

// installNAT makes a router of the calling thread's namespace, translating
// what leaves through the uplink to the address outside.
func installNAT(n netsim.NAT, outside netip.Addr) error {
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if err := installRules(n, outside); err != nil {
		return err
	}
	seconds := strconv.FormatInt(lifetimeSeconds(n), 10)
	for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		if err := setSysctl("net/netfilter/"+name, seconds); err != nil {
			return err
		}
	}
	return nil
}

func lifetimeSeconds(n netsim.NAT) int64 {
	switch {
	case n.Lifetime == 0:
		return 120
	case n.Lifetime < 0:
		return foreverSeconds
	}
	// Whole seconds, rounded up.
	return min(foreverSeconds, int64((n.Lifetime+time.Second-1)/time.Second))
}

func installRules(n netsim.NAT, outside netip.Addr) error {
	m, err := methodOf(n)
	if err != nil {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return notPermitted("nftables", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})

	// What arrives at the router itself and answers nothing is dropped, as
	// home routers do. Were it accepted, an early packet of a peer would
	// confirm a conntrack entry, and the insider's own packet to that peer
	// would then leave from another port.
	input := conn.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: join(
		ifCtState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))})
	conn.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: join(
		ifDevice(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), verdict(expr.VerdictDrop))})

	// Nor is anything forwarded inward that answers nothing.
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: join(
		ifDevice(expr.MetaKeyIIFNAME, expr.CmpOpEq, uplinkName),
		ifCtState(expr.CtStateBitNEW|expr.CtStateBitINVALID), verdict(expr.VerdictDrop))})

	post := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	addr := outside.As4()
	conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: join(
		ifDevice(expr.MetaKeyOIFNAME, expr.CmpOpEq, uplinkName),
		[]expr.Any{
			&expr.Immediate{Register: 1, Data: addr[:]},
			&expr.NAT{
				Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1,
				FullyRandom: m == methodTrackedRandom,
			},
		})})
	if err := conn.Flush(); err != nil {
		return notPermitted("nftables NAT", err)
	}
	return nil
}

// forget empties the connection tracking table of the calling thread's
// namespace.
func forget() error {
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return notPermitted("flushing connection tracking", err)
	}
	return nil
}

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func ifDevice(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: padded},
	}
}

func ifCtState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind}}
}

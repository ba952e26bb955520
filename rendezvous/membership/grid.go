package membership

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Grid is what every member knows of its grid, signed by the grid key: its
// name, the rendezvous servers that keep its ledger, and its addresses.
type Grid struct {
	Key      ed25519.PublicKey
	Sequence uint64 // grows with each change; from 1
	Issued   time.Time
	Name     string
	Network  netip.Prefix // of IPv4 addresses of members

	// Rendezvous lists the servers of the ledger, at most eight. Records signed
	// by their keys hold. Empty: the grid has no ledger (see [Grid.Ledgerless]).
	Rendezvous []rendezvous.Address

	signature []byte
}

const (
	maxServers = 8
	maxGrid    = 4096 // bytes of an encoded Grid
)

// DefaultNetwork is where members get their IPv4 addresses unless the admin
// names another prefix. It is a part of RFC 6598's shared address space.
var DefaultNetwork = netip.MustParsePrefix("100.90.0.0/16")

// ID returns the grid's ID.
func (g *Grid) ID() GridID { return GridIDOf(g.Key) }

// IsLedger reports whether records signed by the key named id hold.
func (g *Grid) IsLedger(id ri2n.PeerID) bool {
	return slices.ContainsFunc(g.Rendezvous, func(a rendezvous.Address) bool { return a.Peer == id })
}

// Ledgerless reports whether the grid has no ledger: a certificate chain alone
// makes a member of it, so that its invitations cannot be counted and the places
// of its members in the routing key space can be chosen by trying keys.
func (g *Grid) Ledgerless() bool { return len(g.Rendezvous) == 0 }

// Domain is what stands behind the names of members: NAME.grid.
func (g *Grid) Domain() string { return g.Name + ".grid" }

func (g *Grid) check() error {
	switch {
	case len(g.Key) != ed25519.PublicKeySize:
		return malformed("a grid without a key")
	case g.Sequence == 0:
		return malformed("sequence zero")
	case !g.Network.IsValid() || !g.Network.Addr().Is4() || g.Network != g.Network.Masked() || g.Network.Bits() < 8 || g.Network.Bits() > 30:
		return malformed("the network is not an IPv4 prefix of 8 to 30 bits")
	case len(g.Rendezvous) > maxServers:
		return malformed("%d rendezvous servers", len(g.Rendezvous))
	}
	for _, a := range g.Rendezvous {
		if again, err := rendezvous.ParseAddress(a.String()); err != nil || again != a {
			return malformed("a rendezvous address that is none")
		}
	}
	return CheckName(g.Name)
}

func (g *Grid) appendBody(b []byte) []byte {
	b = append(append(b, 1), g.Key...)
	b = binary.BigEndian.AppendUint64(b, g.Sequence)
	b = appendTime(b, g.Issued)
	b = appendShort(b, g.Name)
	b = append(b, g.Network.Addr().AsSlice()...)
	b = append(b, byte(g.Network.Bits()), byte(len(g.Rendezvous)))
	for _, a := range g.Rendezvous {
		b = append(b, a.Peer[:]...)
		b = binary.BigEndian.AppendUint16(b, a.Port)
		b = appendShort(b, a.Host)
	}
	return b
}

// SignGrid signs g with the grid's secret key, which must be that of g.Key.
func SignGrid(key ed25519.PrivateKey, g Grid) (*Grid, error) {
	g.Issued = g.Issued.Truncate(time.Second).UTC()
	if err := g.check(); err != nil {
		return nil, err
	}
	if !g.Key.Equal(key.Public()) {
		return nil, fmt.Errorf("membership: this key is not that of the grid %s", g.Name)
	}
	g.signature = sign(key, contextGrid, g.appendBody(nil))
	return &g, nil
}

// AppendGrid extends b by g with its signature.
func AppendGrid(b []byte, g *Grid) []byte { return append(g.appendBody(b), g.signature...) }

// ParseGrid decodes what AppendGrid wrote, and checks the signature against the
// key inside. Whether that is the right key is for the caller to say: compare
// [Grid.ID].
func ParseGrid(b []byte) (*Grid, error) {
	if len(b) > maxGrid {
		return nil, malformed("a grid of %d bytes", len(b))
	}
	body, signature, err := signed(b)
	if err != nil {
		return nil, err
	}
	d := decoder{b: body}
	if v := d.byte(); v != 1 {
		d.fail("format %d", v)
	}
	g := &Grid{Key: d.key(), Sequence: d.uint64(), Issued: d.time(), Name: d.name()}
	addr, bits := d.take(4), d.byte()
	if d.err == nil {
		g.Network = netip.PrefixFrom(netip.AddrFrom4([4]byte(addr)), int(bits))
	}
	n := int(d.byte())
	if n > maxServers {
		d.fail("%d rendezvous servers", n)
	}
	for range n {
		a := rendezvous.Address{Peer: d.array32(), Port: d.uint16(), Host: string(d.short())}
		if d.err != nil {
			break
		}
		g.Rendezvous = append(g.Rendezvous, a)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	if !verifySignature(g.Key, contextGrid, body, signature) {
		return nil, &Error{Problem: BadSignature, What: "the description of grid " + g.Name}
	}
	g.signature = append([]byte(nil), signature...)
	return g, nil
}

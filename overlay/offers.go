package overlay

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// An Offer is a service that a node offers on one of its ports, by a name such as
// those of RFC 6335: "ssh" on "tcp".
type Offer struct {
	Name    string `json:"name"`    // of 1 to 15 small letters, digits and hyphens, with a letter
	Network string `json:"network"` // "tcp" or "udp"
	Port    uint16 `json:"port"`
}

const (
	// MaxOffers is how many services a node offers at most.
	MaxOffers = 64

	maxOfferName = 15 // RFC 6335, section 5.1
	// offersTime bounds the exchange with a peer that has a session.
	offersTime = 10 * time.Second
)

// offerNetworks are the codes of networks in an answer of service 3.
var offerNetworks = map[string]byte{"tcp": 1, "udp": 2}

// Check returns what is wrong with o.
func (o Offer) Check() error {
	if offerNetworks[o.Network] == 0 || o.Port == portControl || !serviceName(o.Name) {
		return fmt.Errorf("overlay: offer of %q on %s port %d: a name has 1 to %d small letters, digits and hyphens, the network is tcp or udp", o.Name, o.Network, o.Port, maxOfferName)
	}
	return nil
}

// serviceName reports whether text is a service name of RFC 6335, section 5.1, in
// small letters.
func serviceName(text string) bool {
	if len(text) == 0 || len(text) > maxOfferName || text[0] == '-' || text[len(text)-1] == '-' || strings.Contains(text, "--") {
		return false
	}
	letter := false
	for _, c := range []byte(text) {
		switch {
		case 'a' <= c && c <= 'z':
			letter = true
		case c != '-' && (c < '0' || c > '9'):
			return false
		}
	}
	return letter
}

// appendOffers extends b by the answer of service 3 (docs/overlay-protocol.md,
// section 7).
func appendOffers(b []byte, list []Offer) []byte {
	for _, o := range list {
		b = append(b, offerNetworks[o.Network])
		b = binary.BigEndian.AppendUint16(b, o.Port)
		b = append(b, byte(len(o.Name)))
		b = append(b, o.Name...)
	}
	return b
}

const maxOffersLen = MaxOffers * (4 + maxOfferName)

// parseOffers decodes a whole answer.
func parseOffers(b []byte) (list []Offer, err error) {
	for len(b) > 0 {
		if len(b) < 4 || len(b) < 4+int(b[3]) || len(list) == MaxOffers {
			return nil, fmt.Errorf("%w: offer cut short", errMalformed)
		}
		o := Offer{Port: binary.BigEndian.Uint16(b[1:]), Name: string(b[4 : 4+b[3]])}
		for network, code := range offerNetworks {
			if code == b[0] {
				o.Network = network
			}
		}
		if o.Check() != nil {
			return nil, fmt.Errorf("%w: offer of %q", errMalformed, o.Name)
		}
		list, b = append(list, o), b[4+b[3]:]
	}
	return list, nil
}

// Offer tells peers, when they ask, that there is a service on a port. They learn
// of those that they may connect to. Whether somebody listens is the caller's
// affair, as is withdrawing, which may be done twice. The same offer may be
// made several times; it holds until each has been withdrawn. More than
// MaxOffers at once are syscall.ENOBUFS.
func (n *Node) Offer(o Offer) (withdraw func(), err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.offers) >= MaxOffers {
		return nil, fmt.Errorf("overlay: offer of %q: %d services are offered: %w", o.Name, MaxOffers, syscall.ENOBUFS)
	}
	held := &o
	n.offers = append(n.offers, held)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.offers = slices.DeleteFunc(n.offers, func(x *Offer) bool { return x == held })
	}, nil
}

// offersTo returns what is offered to a peer.
func (n *Node) offersTo(peer ri2n.PeerID) (list []Offer) {
	n.mu.Lock()
	all := slices.Clone(n.offers)
	n.mu.Unlock()
	for _, o := range all {
		if n.mayOpen(peer, o.Port) && !slices.Contains(list, *o) {
			list = append(list, *o)
		}
	}
	return list
}

// serveOffers answers one stream of service 3.
func (n *Node) serveOffers(_ context.Context, a *association, st *ri2n.Stream) {
	st.SetDeadline(time.Now().Add(offersTime))
	// Errors are those of a session that is ending.
	_, _ = st.Write(appendOffers(nil, n.offersTo(a.peer.id)))
	_ = st.Close()
}

// Offers asks a peer which of its services this node may connect to, and makes
// a session if there is none. For this node itself it returns all. A peer whose
// version knows no offers is an error.
func (n *Node) Offers(ctx context.Context, peer ri2n.PeerID) ([]Offer, error) {
	if peer == n.PeerID() {
		n.mu.Lock()
		defer n.mu.Unlock()
		list := make([]Offer, len(n.offers))
		for i, o := range n.offers {
			list[i] = *o
		}
		return list, nil
	}
	ctx, cancel := context.WithTimeout(ctx, offersTime)
	defer cancel()
	a, err := n.peerByID(peer).connect(ctx)
	if err != nil {
		return nil, err
	}
	st, err := a.openService(ctx, serviceOffers)
	if err != nil {
		return nil, a.peer.explain(err)
	}
	stop := context.AfterFunc(ctx, func() { st.Reset(resetAborted) })
	defer stop()
	defer st.Close()
	b, err := io.ReadAll(io.LimitReader(st, maxOffersLen+1))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, a.peer.explain(err)
	}
	return parseOffers(b)
}

package resolver

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/instantgrid/instantgrid/overlay"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// offersLife is how long what a member offers is taken for true, and
	// offersRetry how long one that did not say is not asked again.
	offersLife  = 20 * time.Second
	offersRetry = 5 * time.Second
	// maxOffering bounds the members whose offers are kept, and those asked at
	// once.
	maxOffering = 1024
)

// offers keeps what members offer.
type offers struct {
	mu    sync.Mutex // guards what follows
	known map[ri2n.PeerID]*offering
}

// An offering is what one member has said last.
type offering struct {
	list  []overlay.Offer
	until time.Time
	asked chan struct{} // closed when it has answered; nil: it is not being asked
}

// of returns what members offer, as far as they say so soon. With mayAsk they are
// asked, where what is known is old.
func (o *offers) of(ctx context.Context, grid Grid, members []overlay.MemberStatus, mayAsk bool) map[ri2n.PeerID][]overlay.Offer {
	now := time.Now()
	var waiting []chan struct{}
	o.mu.Lock()
	if o.known == nil {
		o.known = make(map[ri2n.PeerID]*offering)
	}
	for _, m := range members {
		k := o.known[m.Peer]
		if mayAsk && (k == nil || k.asked == nil && !now.Before(k.until)) && o.room(now) {
			if k == nil {
				k = new(offering)
				o.known[m.Peer] = k
			}
			k.asked = make(chan struct{})
			go o.ask(grid, m.Peer, k)
		}
		if k != nil && k.asked != nil {
			waiting = append(waiting, k.asked)
		}
	}
	o.mu.Unlock()
	timer := time.NewTimer(refreshWait)
	defer timer.Stop()
wait:
	for _, asked := range waiting {
		select {
		case <-asked:
		case <-timer.C:
			break wait
		case <-ctx.Done():
			break wait
		}
	}
	all := make(map[ri2n.PeerID][]overlay.Offer, len(members))
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range members {
		if k := o.known[m.Peer]; k != nil {
			all[m.Peer] = k.list
		}
	}
	return all
}

// room makes room for one more member and reports whether there is. The mutex
// is held.
func (o *offers) room(now time.Time) bool {
	if len(o.known) < maxOffering {
		return true
	}
	for peer, k := range o.known {
		if k.asked == nil && !now.Before(k.until) {
			delete(o.known, peer)
		}
	}
	return len(o.known) < maxOffering
}

// ask asks one member, whether or not whoever wants to know waits for it.
func (o *offers) ask(grid Grid, peer ri2n.PeerID, k *offering) {
	ctx, cancel := context.WithTimeout(context.Background(), forwardTime)
	defer cancel()
	list, err := grid.Offers(ctx, peer)
	o.mu.Lock()
	defer o.mu.Unlock()
	k.list, k.until = list, time.Now().Add(offersLife)
	if err != nil {
		k.until = time.Now().Add(offersRetry)
	}
	close(k.asked)
	k.asked = nil
}

// withOffers adds to z what members offer, where x asks for a service by name.
func (s *Server) withOffers(ctx context.Context, z zone, x dns.Question, local bool) zone {
	service, owner, ok := z.split(strings.ToLower(dns.Fqdn(x.Name)))
	if !ok || service == "" || x.Qtype != dns.TypeSRV {
		return z
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(service, "_"), ".")
	if _, err := strconv.ParseUint(name, 10, 16); err == nil {
		return z // a port
	}
	members := z.members[:min(len(z.members), maxServers)]
	if owner != "" {
		member := z.member(owner)
		if member == nil {
			return z
		}
		members = []overlay.MemberStatus{*member}
	}
	z.offers = s.offers.of(ctx, s.cfg.Grid, members, local)
	return z
}

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/carrier"
	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A Session is what a [Client] needs of its session with the server. It is a
// part of [ri2n.Session], so that another transport can take its place.
type Session interface {
	// OpenControl opens the stream that messages travel on.
	OpenControl(ctx context.Context) (net.Conn, error)
	carrier.Carrier
	Err() error
}

// overRI2N is a Session over ri2n.
type overRI2N struct{ carrier.RI2N }

func (s overRI2N) OpenControl(ctx context.Context) (net.Conn, error) {
	st, err := s.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// moveTime bounds the search for a new way of a session that has none.
const moveTime = 3 * time.Second

// move opens paths from the given links if no path of the session works. It
// returns once one does, or none will.
func (s overRI2N) move(links []*ri2n.Link) {
	remote := s.Remote()
	for _, p := range s.Paths() {
		if p.State == ri2n.PathActive || p.State == ri2n.PathStandby {
			return
		}
	}
	if !remote.IsValid() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveTime)
	defer cancel()
	var opening sync.WaitGroup
	for _, l := range links[:min(len(links), maxMoves)] {
		if !l.IsCarrier() && reaches(l.LocalAddr(), remote.Addr()) {
			opening.Go(func() {
				if _, err := s.AddPath(ctx, ri2n.Remote{Link: l, Addr: remote}); err == nil {
					cancel()
				}
			})
		}
	}
	opening.Wait()
}

// maxMoves bounds the paths that are tried at once.
const maxMoves = 4

// maxCandidates bounds the addresses tried at once.
const maxCandidates = 8

// dial opens a session from every link to every address of the server.
func (c *Client) dial(ctx context.Context) (Session, error) {
	if c.cfg.Dial != nil {
		return c.cfg.Dial(ctx)
	}
	addrs, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	var candidates []ri2n.Remote
	for _, addr := range addrs {
		for _, link := range c.cfg.Links() {
			if len(candidates) < maxCandidates && !link.IsCarrier() && reaches(link.LocalAddr(), addr) {
				candidates = append(candidates, ri2n.Remote{
					Link: link,
					Addr: netip.AddrPortFrom(addr, c.cfg.Server.Port),
				})
			}
		}
	}
	if len(candidates) == 0 {
		return nil, errors.New("this computer has no network link to it")
	}
	s, err := c.cfg.Endpoint.Dial(ctx, c.cfg.Server.Peer, candidates...)
	if err != nil {
		return nil, err
	}
	return overRI2N{carrier.RI2N{Session: s}}, nil
}

func (c *Client) resolve(ctx context.Context) ([]netip.Addr, error) {
	host := c.cfg.Server.Host
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	addrs, err := c.cfg.Resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// reaches reports whether a socket bound to local can send to remote at all:
// of the same family, unless the socket serves both.
func reaches(local net.Addr, remote netip.Addr) bool {
	udp, ok := local.(*net.UDPAddr)
	if !ok {
		return true
	}
	addr := udp.AddrPort().Addr()
	return !addr.IsValid() || addr.Is4In6() || addr.Is6() && addr.IsUnspecified() || addr.Is4() == remote.Is4()
}

// explain turns the end of an attempt, or of a session, into an error of this
// package.
func (c *Client) explain(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return err
	}
	refuse := func(reason Reason, text string) error {
		return &RefusedError{Server: c.cfg.Server, Self: c.self, Reason: reason, Text: text}
	}
	if errors.Is(err, ri2n.ErrRefused) {
		c.mu.Lock()
		guest := c.admitKey != nil
		c.mu.Unlock()
		if guest {
			return refuse(ReasonTokenUnknown, "")
		}
		return refuse(ReasonNotAdmitted, "")
	}
	var remote *ri2n.RemoteError
	if errors.As(err, &remote) {
		if reason, ok := protocol.ReasonOf(remote.Code); ok {
			return refuse(reason, remote.Reason)
		}
	}
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) {
		return err
	}
	return &UnreachableError{Server: c.cfg.Server, Err: err}
}

// permanent reports whether only a person can change what err says.
func permanent(err error) bool {
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Reason {
	case ReasonNotAdmitted, ReasonTokenUnknown, ReasonTokenExpired, ReasonTokenUsed, ReasonVersion:
		return true
	}
	return false
}

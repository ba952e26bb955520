package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/instantgrid/instantgrid/ri2n"
)

// Where a NAT maps by destination, the search for a path ends on a socket of
// its own (package punch). It becomes a further ri2n link beside the one whose
// attachment it shares, for that one path of one session.

const (
	// maxSpares bounds the further sockets of one link.
	maxSpares = 256
	// spareLook is the pause between two looks whether a spare is still used.
	spareLook = 5 * time.Second
)

var errSpares = errors.New("overlay: too many sockets of found paths on one link")

// has reports whether a path on the ri2n link of that name is on this link.
func (l *nodeLink) has(name string) bool {
	if l.link.Name() == name {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.spares, func(s *ri2n.Link) bool { return s.Name() == name })
}

// spareLink makes a socket that a search found a link, until the session has no
// path on it. After an error the socket is the caller's.
func (k *pathKeeper) spareLink(l *nodeLink, pc net.PacketConn) (*ri2n.Link, error) {
	n := k.a.node
	name := fmt.Sprintf("%s+%d", l.link.Name(), addrPortOf(pc.LocalAddr()).Port())
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spares) >= maxSpares {
		return nil, errSpares
	}
	link, err := n.endpoint.AddLink(name, pc)
	if err != nil {
		return nil, err
	}
	l.spares = append(slices.Clip(l.spares), link)
	if !n.spawn(func() { k.keepSpare(l, link) }) {
		l.spares = slices.Delete(slices.Clone(l.spares), len(l.spares)-1, len(l.spares))
		link.Close()
		return nil, ErrClosed
	}
	return link, nil
}

// keepSpare closes a spare link when nothing uses it any more.
func (k *pathKeeper) keepSpare(l *nodeLink, link *ri2n.Link) {
	timer := time.NewTimer(2 * proofPatience)
	defer timer.Stop()
	defer func() {
		l.mu.Lock()
		if i := slices.Index(l.spares, link); i >= 0 {
			l.spares = slices.Delete(slices.Clone(l.spares), i, i+1)
		}
		l.mu.Unlock()
		link.Close()
	}()
	for {
		select {
		case <-timer.C:
		case <-k.a.session.Done():
			return
		case <-k.a.node.ctx.Done():
			return
		}
		if !slices.ContainsFunc(k.a.session.Paths(), func(p ri2n.PathInfo) bool { return p.Link == link.Name() }) {
			return
		}
		timer.Reset(spareLook)
	}
}

// proveAddress has the rendezvous tell the peer where it sees us. It is called
// on goroutines of punch.
func (k *pathKeeper) proveAddress() {
	p := k.a.peer
	p.mu.Lock()
	list := slices.Clone(p.incoming)
	if p.own != nil {
		list = append(list, p.own)
	}
	p.mu.Unlock()
	for _, r := range list {
		if err := r.channel.Show(); err != nil {
			k.a.log.Debug("show address", "err", err)
		}
	}
}

// shown takes an address at which the rendezvous sees the peer.
func (p *Peer) shown(at netip.AddrPort) {
	for _, a := range p.all() {
		a.paths.mu.Lock()
		agent := a.paths.agent
		a.paths.mu.Unlock()
		if agent != nil {
			agent.Proven(at.Addr())
		}
	}
}

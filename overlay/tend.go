package overlay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous"
	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

const (
	// tendTime is the pause between two questions for the revocation list, a
	// fourth more or less: sessions of a revoked member end within a minute.
	tendTime = 20 * time.Second
	// membersTime is the pause between two looks at all members.
	membersTime = 5 * time.Minute
	// askTime bounds a question to the ledger.
	askTime = 10 * time.Second
)

// tendGrid keeps the membership fresh, and the list of members and revocations,
// until the node ends.
func (n *Node) tendGrid() {
	var members time.Time // when they were last fetched
	wait := time.Duration(0)
	home, _ := n.homeClient()
	for {
		timer := time.NewTimer(wait)
		var changed <-chan struct{}
		if home != nil && !home.Status().Registered {
			changed = home.Changed()
		}
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
			if !home.Status().Registered {
				wait = min(max(wait, time.Second), tendTime)
				continue
			}
		case <-n.ctx.Done():
			timer.Stop()
			return
		}
		now := time.Now()
		err := n.fetchRevocations(n.ctx)
		if err == nil {
			n.renew(n.ctx, now)
			if now.Sub(members) >= membersTime {
				if err := n.fetchMembers(n.ctx); err == nil {
					members = now
				} else if n.ctx.Err() == nil {
					n.log.Debug("members not fetched", "err", err)
				}
			}
		}
		n.reportStale(now)
		wait = tendTime*3/4 + rand.N(tendTime/2)
	}
}

func (n *Node) homeClient() (*rendezvous.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.home == nil {
		return nil, &NoWayError{}
	}
	return n.home, nil
}

// errLedgerless reports a question to a ledger that does not exist.
var errLedgerless = errors.New("overlay: the grid has no ledger")

// ask puts a question to a ledger of the grid: that of our rendezvous, or
// another one if that cannot be reached.
func (n *Node) ask(ctx context.Context, q *membership.Request) ([]byte, error) {
	n.grid.mu.Lock()
	info := n.grid.info
	n.grid.mu.Unlock()
	switch {
	case info == nil:
		return nil, errNoGrid
	case info.Ledgerless():
		return nil, errLedgerless
	}
	q.Grid = info.ID()
	home, err := n.homeClient()
	if err != nil {
		return nil, err
	}
	clients := []*rendezvous.Client{home}
	if !home.Status().Registered {
		for _, at := range info.Rendezvous {
			if at.Peer == home.Server().Peer {
				continue
			}
			if c, err := n.client(at, rendezvous.Key{}); err == nil {
				clients = append(clients, c)
			}
		}
	}
	for _, c := range clients {
		var answer []byte
		asking, cancel := context.WithTimeout(ctx, askTime)
		answer, err = c.Ask(asking, membership.AppendRequest(nil, q))
		cancel()
		if err == nil {
			return membership.ParseAnswer(answer)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// fetchRevocations asks whether there is a newer list. A ledger that has an
// older one than we do, which we have from a member then, hides something.
func (n *Node) fetchRevocations(ctx context.Context) error {
	sequence, _ := n.grid.listed()
	b, err := n.ask(ctx, &membership.Request{Op: membership.OpRevocations, Sequence: sequence})
	if err != nil {
		return err
	}
	offered, fresh, err := membership.ParseListAnswer(b)
	if err != nil {
		return err
	}
	now := time.Now()
	if len(fresh) > 0 {
		if _, err := n.adoptRevocations(now, fresh); err != nil {
			n.counters.listsRefused.Add(1)
			return err
		}
	}
	known, list := n.grid.listed()
	// A ledger that claims a newer list and does not show it hides it as well.
	hidden := offered != known
	n.grid.mu.Lock()
	first := hidden && !n.grid.hidden
	n.grid.hidden = hidden
	n.grid.mu.Unlock()
	if !hidden {
		n.grid.confirm(now)
		return nil
	}
	if first {
		n.counters.listsHidden.Add(1)
		n.log.Warn("the rendezvous does not know the newest revocation list; it is told", "known", known, "offered", offered)
		n.emit(Event{Kind: EventGrid, Detail: fmt.Sprintf("the rendezvous offers revocation list %d, and list %d exists", offered, known)})
	}
	// It may merely have been restored from a backup.
	_, err = n.ask(ctx, &membership.Request{Op: membership.OpPublish, Body: list})
	return err
}

// adoptRevocations takes in a list and ends the sessions of whom it names.
func (n *Node) adoptRevocations(now time.Time, encoded []byte) (bool, error) {
	fresh, err := n.grid.adopt(now, encoded)
	if err != nil || !fresh {
		return fresh, err
	}
	sequence, _ := n.grid.listed()
	n.log.Info("revocation list", "sequence", sequence)
	n.emit(Event{Kind: EventGrid, Detail: fmt.Sprintf("revocation list %d", sequence)})
	n.router.revoked(n.ctx)
	n.eachPeer(func(p *Peer) {
		revoked := n.grid.isRevoked(p.id)
		for _, a := range p.all() {
			if revoked {
				n.counters.sessionsRevoked.Add(1)
				a.session.CloseWithError(closeRevoked, "revoked")
			} else {
				a.send(listAt{sequence})
			}
		}
	})
	return true, nil
}

// renew asks for a fresh record once half of ours has passed.
func (n *Node) renew(ctx context.Context, now time.Time) {
	n.grid.mu.Lock()
	own, me := n.grid.own, n.grid.me
	n.grid.mu.Unlock()
	if own == nil || me != nil && now.Before(own.Record.RenewAt()) {
		return
	}
	b, err := n.ask(ctx, &membership.Request{Op: membership.OpRenew})
	var r *membership.Record
	if err == nil {
		if r, err = membership.ParseRecord(b); err == nil {
			err = n.grid.setOwn(now, r)
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			n.counters.renewalsFailed.Add(1)
			n.log.Warn("the membership is not renewed", "until", own.Record.Expires, "err", err)
		}
		return
	}
	n.log.Info("membership renewed", "until", r.Expires)
	proof := n.grid.ownProof()
	n.eachPeer(func(p *Peer) {
		for _, a := range p.all() {
			if a.isProven() {
				a.send(memberMessage{membership.AppendProof(nil, proof)})
			}
		}
	})
}

// fetchMembers asks for all members, and keeps those whose proofs hold.
func (n *Node) fetchMembers(ctx context.Context) error {
	var after ri2n.PeerID
	refused := 0
	for range maxMembers {
		b, err := n.ask(ctx, &membership.Request{Op: membership.OpMembers, After: after})
		if err != nil {
			return err
		}
		page, err := membership.ParsePage(b)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, x := range page {
			peer := x.Proof.Peer()
			if string(peer[:]) <= string(after[:]) {
				return fmt.Errorf("%w: members out of order", errMalformed)
			}
			after = peer
			if _, err := n.grid.learn(time.Now(), peer, x.Proof, x.Joined); err != nil {
				refused++
				n.counters.membersRefused.Add(1)
				n.log.Debug("a member that the ledger lists is none", "peer", peer, "err", err)
			}
		}
	}
	if refused > 0 {
		n.log.Warn("the rendezvous lists members whose proofs do not hold", "members", refused)
	}
	return n.grid.store(time.Now())
}

// reportStale says once that nobody confirms the list any more.
func (n *Node) reportStale(now time.Time) {
	stale := n.grid.stale(now)
	if was := n.staleSaid.Swap(stale); stale && !was {
		n.grid.mu.Lock()
		since := n.grid.confirmed
		n.grid.mu.Unlock()
		n.log.Warn("no rendezvous confirms the revocation list", "since", since)
		n.emit(Event{Kind: EventGrid, Detail: "the revocation list has not been confirmed since " + since.UTC().Format(time.RFC3339)})
	}
}

// lookAtPolicy reads the policy file if it has changed.
func (n *Node) lookAtPolicy() error {
	p, err := n.policies.look()
	if err != nil {
		n.log.Error("the policy is not read; the one before stays", "err", err)
		return err
	}
	if p != nil {
		n.grid.setPolicy(p)
		n.log.Debug("policy", "rules", len(p.rules))
	}
	return nil
}

// closeExpired ends the sessions of those who were members.
func (n *Node) closeExpired(now time.Time) {
	n.eachPeer(func(p *Peer) {
		if n.allowed.has(p.id) || n.invitations.isGuest(p.id) || n.grid.memberOf(now, p.id) != nil {
			return
		}
		for _, a := range p.all() {
			if !a.client && a.isProven() && a.since.Add(candidateLife).Before(now) {
				a.session.CloseWithError(closeMember, "the membership has ended")
			}
		}
	})
}

// admitMember takes a proof that a peer shows on its control stream.
func (n *Node) admitMember(a *association, encoded []byte) error {
	now := time.Now()
	proof, rest, err := membership.ParseProof(encoded)
	if err == nil && len(rest) > 0 {
		err = membership.ErrMalformed
	}
	if err == nil {
		_, err = n.grid.learn(now, a.peer.id, proof, time.Time{})
	}
	if err == nil && !a.isProven() && !n.grid.welcomes(now) {
		err = errors.New("the revocation list is not confirmed")
	}
	switch {
	case err == nil:
		a.authorize()
		n.router.poke()
		return nil
	case isNameTaken(err) && !n.allowed.has(a.peer.id) && !n.invitations.isGuest(a.peer.id):
		// It is a member all the same. Whoever has dialed, it is to hear of it.
		a.log.Warn("two members have one name; the one that was known first keeps it here", "err", err)
		a.closeWith(closeName, err)
		return errProof
	case a.isProven():
		a.log.Debug("a membership that does not hold", "err", err)
		return nil // it is here for another reason
	}
	n.refuseProof(a)
	a.log.Info("refused", "peer", a.peer.id, "err", err)
	a.closeWith(closeMember, err)
	return errProof
}

// closeWith ends the session and tells the peer why.
func (a *association) closeWith(code uint64, err error) {
	reason := err.Error()
	a.session.CloseWithError(code, reason[:min(len(reason), 200)])
}

func isNameTaken(err error) bool {
	return errors.Is(err, &membership.Error{Problem: membership.NameTaken})
}

// Resolve returns the peer that text names: a peer ID, or the name of a member
// ("alice", "alice.lab", "alice.lab.grid"). A name that is not known yet is
// asked for at the ledger, or looked for by routing when there is no rendezvous. The error is a [*NameError].
func (n *Node) Resolve(ctx context.Context, text string) (ri2n.PeerID, error) {
	if id, err := ri2n.ParsePeerID(text); err == nil {
		return id, nil
	}
	label, err := n.grid.label(text)
	if err != nil {
		return ri2n.PeerID{}, err
	}
	if id, found := n.grid.lookup(time.Now(), label); found {
		return id, nil
	}
	// Without a ledger at hand those on the LAN are asked first, then those who
	// route.
	if !n.registered() {
		if n.meetNamed(ctx, label) {
			if id, found := n.grid.lookup(time.Now(), label); found {
				return id, nil
			}
		}
		if a, err := n.router.findName(ctx, label); err == nil && a != nil {
			return a.peer(), nil
		}
	}
	if err := n.fetchMembers(ctx); errors.Is(err, errLedgerless) {
		return ri2n.PeerID{}, &NameError{Name: text, Problem: "no member of that name is known or was heard on this local network", Member: true}
	} else if err != nil {
		if a, err := n.router.findName(ctx, label); err == nil && a != nil {
			return a.peer(), nil
		}
		return ri2n.PeerID{}, &NameError{Name: text, Problem: "no member of that name is known, and the ledger does not answer: " + err.Error(), Member: true}
	}
	if id, found := n.grid.lookup(time.Now(), label); found {
		return id, nil
	}
	return ri2n.PeerID{}, &NameError{Name: text, Problem: "no member has it", Member: true}
}

// registered reports whether the node's rendezvous knows it now.
func (n *Node) registered() bool {
	home, err := n.homeClient()
	return err == nil && home.Status().Registered
}

// Members returns the members of the node's grid that are known, by name. With
// a rendezvous at hand they are fetched first.
func (n *Node) Members(ctx context.Context) ([]MemberStatus, error) {
	if !n.grid.member() {
		return nil, &NameError{Name: "of a grid", Problem: "this node belongs to none"}
	}
	var err error
	if n.grid.ledgerless() {
		n.meetAll(ctx)
	} else if err = n.fetchRevocations(ctx); err == nil {
		err = n.fetchMembers(ctx)
	}
	list := n.grid.listMembers(time.Now())
	for i := range list {
		n.mu.Lock()
		p := n.peers[list[i].Peer]
		n.mu.Unlock()
		list[i].Connected = p != nil && p.best() != nil
	}
	if err != nil && len(list) == 0 {
		return nil, err
	}
	return list, nil
}

// MemberOf returns the member behind a connection of this package, nil if the
// peer is none: allowed, or the guest of a token.
func (n *Node) MemberOf(peer ri2n.PeerID) *membership.Member {
	return n.grid.memberOf(time.Now(), peer)
}

// Publish takes in a revocation list, and gives it to the ledger and the
// members that there are sessions with.
func (n *Node) Publish(ctx context.Context, list []byte) error {
	if n.grid.ledgerless() {
		n.meetAll(ctx) // who gets it at once; others get it of them
	}
	if _, err := n.adoptRevocations(time.Now(), list); err != nil || n.grid.ledgerless() {
		return err
	}
	_, err := n.ask(ctx, &membership.Request{Op: membership.OpPublish, Body: list})
	return err
}

// Revocations returns the newest list that the node knows, encoded; nil: none.
func (n *Node) Revocations(ctx context.Context) ([]byte, error) {
	var err error
	if !n.grid.ledgerless() {
		err = n.fetchRevocations(ctx)
	}
	_, list := n.grid.listed()
	return list, err
}

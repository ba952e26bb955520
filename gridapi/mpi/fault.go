package mpi

import (
	"context"
	"fmt"
	"slices"
)

// Fault tolerance after ULFM (MPI Forum, User-Level Failure Mitigation).

// unacknowledged returns a member that failed and that AckFailed has not
// covered, or a negative number. p.mu is held.
func (c *Comm) unacknowledged() int {
	if c.acked < len(c.failed) {
		return c.failed[c.acked]
	}
	return -1
}

// memberFailed takes note of a failure. p.mu is held.
func (c *Comm) memberFailed(world int) {
	r := c.rankOf(world)
	if r < 0 || slices.Contains(c.failed, r) {
		return
	}
	c.failed = append(c.failed, r)
	c.agreeFailed(r)
}

// GetFailed returns the members that are known to have failed
// (MPIX_Comm_get_failed). Those that have finished count.
func (c *Comm) GetFailed() []int {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return slices.Clone(c.failed)
}

// AckFailed acknowledges the failures known so far (MPIX_Comm_ack_failed):
// receives from anybody go on without those ranks, and Agree does not report
// them. It returns all that are acknowledged.
func (c *Comm) AckFailed() []int {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.acked = len(c.failed)
	return slices.Clone(c.failed)
}

// Revoke ends the communicator for all its members (MPIX_Comm_revoke): what
// waits on it, and what comes later, ends with ErrRevoked, save Agree, Shrink
// and the failure calls. It does not wait.
func (c *Comm) Revoke() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.freed {
		return fault(ErrComm, "Revoke", nil)
	}
	c.revoke()
	return nil
}

// Revoked reports whether the communicator was revoked by any of its members.
func (c *Comm) Revoked() bool {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.revoked
}

// revoke is also what a member does when it is told: each tells all, so that
// all learn of it although some die while they tell. p.mu is held.
func (c *Comm) revoke() {
	if c.revoked {
		return
	}
	c.revoked = true
	c.p.broadcast(c, header{kind: frameRevoke, context: c.context})
	for _, x := range c.active {
		x.fail(fault(ErrRevoked, x.name, nil))
	}
	for _, r := range c.p.alive() {
		if r.comm == c && r.kind != kindAgree {
			c.p.giveUp(r, r.fault(ErrRevoked, -1, nil))
		}
	}
}

// Agree returns the bitwise and of the flags of all members that live
// (MPIX_Comm_agree): the same at all of them, whoever fails meanwhile and
// whether or not c is revoked. If a member failed that not all had acknowledged,
// all of them get ErrProcFailed beside the flag.
func (c *Comm) Agree(ctx context.Context, flag uint64) (uint64, error) {
	v, unseen, err := c.agree(ctx, "Agree", flag)
	if err != nil {
		return 0, c.handled(err)
	}
	if unseen >= 0 {
		return v.flag, c.handled(&Error{Class: ErrProcFailed, Op: "Agree", Rank: unseen})
	}
	return v.flag, nil
}

// Shrink returns a communicator of the members that live
// (MPIX_Comm_shrink): all of them agree on which these are. It works on a
// revoked communicator.
func (c *Comm) Shrink(ctx context.Context) (*Comm, error) {
	v, number, err := c.agreeOn(ctx, "Shrink", ^uint64(0))
	if err != nil {
		return nil, c.handled(err)
	}
	var group []int
	for r, w := range c.group {
		if !v.failed.has(r) {
			group = append(group, w)
		}
	}
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(group, p.rank) {
		return nil, fault(ErrFenced, "Shrink", nil)
	}
	return c.inherit(p.newComm(c.child("shrink", number, 0), group)), nil
}

// agree is Agree without the error handler. unseen is a failed member that not
// all had acknowledged, or negative.
func (c *Comm) agree(ctx context.Context, op string, flag uint64) (v vote, unseen int, err error) {
	v, _, err = c.agreeOn(ctx, op, flag)
	if err != nil {
		return v, -1, err
	}
	for r := range c.group {
		if v.failed.has(r) && !v.acked.has(r) {
			return v, r, nil
		}
	}
	return v, -1, nil
}

// agreeOn takes part in the next agreement on c and waits for its result.
func (c *Comm) agreeOn(ctx context.Context, op string, flag uint64) (vote, int32, error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return vote{}, 0, fault(classOf(p.closed), op, nil)
	}
	if c.freed {
		return vote{}, 0, fault(ErrComm, op, nil)
	}
	number := c.nextAgreement
	c.nextAgreement++
	a := c.agreement(number)
	mine := vote{flag: flag, failed: newRankSet(len(c.group)), acked: newRankSet(len(c.group))}
	for i, r := range c.failed {
		mine.failed.add(r)
		if i < c.acked {
			mine.acked.add(r)
		}
	}
	r := p.newRequest(c, op, kindAgree)
	r.kept = true
	a.request = r
	a.state.start(mine)
	c.agreeStep(number, a)
	if err := p.await(ctx, r); err != nil {
		a.request = nil
		p.giveUp(r, err) // others count on our vote, and have it
		return vote{}, 0, err
	}
	if r.err != nil {
		return vote{}, 0, r.err
	}
	v := *a.state.decided
	// Nobody else can be in the agreement before the last: all have left it.
	for n := range c.running {
		if n < number-1 {
			delete(c.running, n)
		}
	}
	return v, number, nil
}

// agreements is the part of a communicator that keeps its agreements. The last
// ones stay, for members that have not heard of the result.
type agreements struct {
	nextAgreement int32
	running       map[int32]*runningAgreement
}

type runningAgreement struct {
	state   agreement
	request *Request // of the call here; nil before it and after
}

// maxAgreementsAhead bounds the agreements that others may have begun before us.
const maxAgreementsAhead = 16

// agreement returns the agreement with this number. p.mu is held.
func (c *Comm) agreement(number int32) *runningAgreement {
	a := c.running[number]
	if a == nil {
		a = &runningAgreement{state: newAgreement(len(c.group), c.rank)}
		for _, r := range c.failed {
			a.state.fail(r)
		}
		if c.running == nil {
			c.running = make(map[int32]*runningAgreement)
		}
		c.running[number] = a
	}
	return a
}

// agreeFrame takes a step of another member. p.mu is held.
func (c *Comm) agreeFrame(from int, h header, body []byte) error {
	if h.tag > c.nextAgreement+maxAgreementsAhead {
		return fmt.Errorf("%w: agreement %d", errMalformed, h.tag)
	}
	m, err := parseAgreeMessage(body, len(c.group))
	if err != nil {
		return err
	}
	if c.running[h.tag] == nil && h.tag < c.nextAgreement-2 {
		return nil // long over: its sender cannot be in it
	}
	a := c.agreement(h.tag)
	a.state.receive(from, m)
	c.agreeStep(h.tag, a)
	return nil
}

// agreeFailed tells all agreements of a failure. p.mu is held.
func (c *Comm) agreeFailed(rank int) {
	for n, a := range c.running {
		a.state.fail(rank)
		c.agreeStep(n, a)
	}
}

// agreeStep sends what an agreement has to say and completes its call. p.mu is
// held.
func (c *Comm) agreeStep(number int32, a *runningAgreement) {
	for _, o := range a.state.take() {
		c.p.control(&c.p.peers[c.group[o.to]], header{kind: frameAgree, context: c.context, tag: number}, appendAgreeMessage(nil, o.agreeMessage))
	}
	if a.state.decided == nil || a.request == nil {
		return
	}
	r := a.request
	a.request = nil
	if !r.done {
		r.complete(nil)
	}
}

package netsim

import (
	"fmt"
	"time"
)

// An Action is what an Event does to a node.
type Action int

const (
	Cut      Action = iota // nothing passes the node's uplink
	Restore                // the uplink passes packets again
	Relink                 // the uplink becomes Event.Uplink
	Reboot                 // a NAT forgets all mappings
	Remap                  // a NAT moves all mappings to other ports
	Renumber               // the node gets another address; a NAT forgets all mappings, too
	Sleep                  // a host neither sends nor receives
	Wake                   // a host does again
	actions
)

var actionNames = [actions]string{"cut", "restore", "relink", "reboot", "remap", "renumber", "sleep", "wake"}

// String returns the name: "cut" and so on.
func (a Action) String() string { return nameOf(actionNames[:], int(a)) }

// MarshalText encodes the name.
func (a Action) MarshalText() ([]byte, error) { return marshalName(actionNames[:], int(a)) }

// UnmarshalText decodes the name.
func (a *Action) UnmarshalText(text []byte) error {
	return unmarshalName(actionNames[:], text, (*int)(a))
}

// An Event happens to a node of a running scenario.
type Event struct {
	At   time.Duration // since the start
	Node string
	Do   Action
	// Uplink is the link that Relink sets; not used otherwise.
	Uplink Link
	// Every repeats the event, Times times in all (zero: 1000 times). Zero:
	// once.
	Every time.Duration
	Times int
}

// maxRepeats is how often an event happens that names no number.
const maxRepeats = 1000

// validate reports what makes an event impossible among the given nodes.
func (e Event) validate(field string, nats, hosts map[string]bool) error {
	bad := func(name, format string, args ...any) error {
		return &ScenarioError{Field: field + name, Node: e.Node, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case e.At < 0:
		return bad(".at", "%v is negative", e.At)
	case e.Every < 0:
		return bad(".every", "%v is negative", e.Every)
	case e.Every > 0 && e.Every < time.Millisecond:
		return bad(".every", "%v is shorter than 1ms", e.Every)
	case e.Times < 0 || e.Times > maxRepeats:
		return bad(".times", "%d is not in 0 to %d", e.Times, maxRepeats)
	case e.Times > 1 && e.Every == 0:
		return bad(".times", "needs every, the time between two")
	case e.Do < 0 || e.Do >= actions:
		return bad(".do", "%d is not a known value", int(e.Do))
	case !nats[e.Node] && !hosts[e.Node]:
		return bad(".node", "no node is named %q", e.Node)
	case (e.Do == Reboot || e.Do == Remap) && !nats[e.Node]:
		return bad(".do", "%v is for a NAT", e.Do)
	case (e.Do == Sleep || e.Do == Wake) && !hosts[e.Node]:
		return bad(".do", "%v is for a host", e.Do)
	case e.Do == Relink:
		return e.Uplink.validate(field+".uplink", e.Node)
	}
	return nil
}

// schedule queues e, and each repetition after the one before it.
func (c *core) schedule(e Event) {
	times := e.Times
	if times == 0 {
		times = maxRepeats
	}
	if e.Every == 0 {
		times = 1
	}
	at := e.At
	var happen func()
	happen = func() {
		// The scenario was validated, so that one thing can fail: a network
		// without a free address leaves the node the one that it has.
		_ = c.apply(e)
		if times--; times > 0 {
			at += e.Every
			c.queue.push(event{at: at, fn: happen})
		}
	}
	c.queue.push(event{at: max(at, c.now), fn: happen})
}

// apply does what e says, now.
func (c *core) apply(e Event) error {
	n := c.byName[e.Node]
	switch {
	case n == nil:
		return fmt.Errorf("netsim: no node %q", e.Node)
	case (e.Do == Reboot || e.Do == Remap) && n.nat == nil:
		return fmt.Errorf("netsim: no NAT %q", e.Node)
	case (e.Do == Sleep || e.Do == Wake) && n.sockets == nil:
		return fmt.Errorf("netsim: no host %q", e.Node)
	}
	switch e.Do {
	case Cut, Restore:
		l := n.uplink
		l.Cut = e.Do == Cut
		if l.Down != nil {
			down := *l.Down
			down.Cut = l.Cut
			l.Down = &down
		}
		n.setUplink(l)
	case Relink:
		if err := e.Uplink.validate("uplink", e.Node); err != nil {
			return err
		}
		n.setUplink(e.Uplink)
	case Reboot:
		n.nat.reboot()
	case Remap:
		n.nat.remap(c.now)
	case Renumber:
		return c.renumber(n)
	case Sleep, Wake:
		n.asleep = e.Do == Sleep
	default:
		return fmt.Errorf("netsim: %d is not a known action", int(e.Do))
	}
	return nil
}

// renumber gives n the next address of its parent's network. Packets to the
// old one find nobody.
func (c *core) renumber(n *node) error {
	parent := ""
	if n.parent.router != nil {
		parent = n.parent.router.name
	}
	addr, err := c.plan.attach(parent)
	if err != nil {
		return err
	}
	old := n.outsideAddresses(1)
	if n.nat != nil {
		old = n.nat.addresses
	}
	for _, a := range old {
		delete(n.parent.byAddr, a)
	}
	n.addr = addr
	now := n.outsideAddresses(len(old))
	for _, a := range now {
		n.parent.byAddr[a] = n
	}
	if n.nat != nil {
		n.nat.addresses = now
		n.nat.reboot()
	}
	return nil
}

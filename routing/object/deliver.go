package object

import (
	"time"

	"github.com/instantgrid/instantgrid/routing"
)

// MaxPayload is the largest payload of [Service.Send] in bytes.
const MaxPayload = routing.MaxPayload - 34

// maxForwards is how often a message is passed on between holders: a process
// that moves more often than messages travel is found by its key again.
const maxForwards = 4

// A Delivery is a message for a process on this node.
type Delivery struct {
	Key     routing.Key
	Via     *routing.Member // who passed it on last; not always who sent it
	Payload []byte          // the receiver may keep it and must not change it
}

// Host gives messages for the process at key to f from now on; nil ends that.
// It is about messages alone: Hold renews the record.
func (s *Service) Host(key routing.Key, f func(now time.Time, d Delivery)) {
	if f == nil {
		delete(s.hosts, key)
		return
	}
	s.hosts[key] = f
}

// Located returns the record that says where the process at key was last seen.
func (s *Service) Located(key routing.Key) (*Record, bool) {
	r := s.located.get(key)
	return r, r != nil
}

// Forget makes the next Send look for the process at key anew: it does not
// answer where it was last seen.
func (s *Service) Forget(key routing.Key) { s.located.drop(key) }

// Send sends payload, which is copied and has at most [MaxPayload] bytes, to
// the process at key: straight to the node where it was last seen, otherwise
// by way of its key. It may be lost when nodes die at that moment, and may
// arrive twice; package fifo deals with both.
func (s *Service) Send(now time.Time, key routing.Key, payload []byte) {
	if len(payload) > MaxPayload {
		panic("object: a message is at most MaxPayload bytes")
	}
	r := &request{op: opDeliver, key: key, limit: maxForwards, payload: append([]byte(nil), payload...)}
	if f := s.hosts[key]; f != nil {
		f(now, Delivery{key, s.node.Self(), r.payload})
		return
	}
	known := s.located.get(key)
	if known == nil || known.Holder == s.node.Self().Peer {
		s.sendByKey(now, r)
		return
	}
	s.call(now, s.holder(known), r, func(now time.Time, a *answer) {
		switch {
		case a != nil && a.status == statusDone:
		case a != nil && a.status == statusEntry:
			s.located.put(key, a.record) // it was passed on to there
		default:
			s.located.drop(key)
			s.sendByKey(now, r)
		}
	})
}

// holder returns the member that holds the process of r. Only its peer ID is
// known, which is all that a messenger needs.
func (s *Service) holder(r *Record) *routing.Member {
	return routing.NewMember(r.Holder, routing.Nonce{}, nil)
}

// sendByKey routes r to the node nearest to its key, which knows the process,
// and finds out for the next message where that is.
func (s *Service) sendByKey(now time.Time, r *request) {
	s.node.Route(now, r.key, Number, appendRequest(nil, r))
	if s.located.ask(r.key) {
		s.Get(now, r.key, func(time.Time, Entry, error) { s.located.asked(r.key) })
	}
}

// routed takes a message that was routed to the key of its process.
func (s *Service) routed(now time.Time, d routing.Delivery) {
	r, err := parseRequest(d.Payload)
	if err != nil || r.op != opDeliver || r.key != d.Key {
		s.counters.Malformed++
		return
	}
	if a := s.delivered(now, d.Origin, &r); a.status != statusNone || r.limit == 0 {
		return
	}
	// Nobody has told this node yet: it may be new at this place.
	s.Get(now, r.key, func(now time.Time, e Entry, err error) {
		if err != nil || s.delivered(now, d.Origin, &r).status == statusNone {
			s.counters.Undeliver++
		}
	})
}

// delivered gives a message to the process if it is here, or passes it on to
// where it went.
func (s *Service) delivered(now time.Time, from *routing.Member, r *request) *answer {
	if f := s.hosts[r.key]; f != nil {
		f(now, Delivery{r.key, from, r.payload})
		return &answer{status: statusDone}
	}
	at := s.located.get(r.key)
	if e := s.store.entries[r.key]; e != nil && e.record != nil && (at == nil || at.Incarnation < e.record.Incarnation) {
		at = e.record
	}
	if at == nil || at.Holder == s.node.Self().Peer || r.limit == 0 {
		return &answer{status: statusNone}
	}
	s.counters.Forwarded++
	next := *r
	next.limit--
	s.call(now, s.holder(at), &next, func(now time.Time, a *answer) {
		if a != nil && a.status == statusEntry {
			s.located.put(r.key, a.record)
		}
	})
	return &answer{status: statusEntry, record: at}
}

// A cache remembers where processes were last seen.
type cache struct {
	max     int
	records map[routing.Key]*Record
	asking  map[routing.Key]bool
	order   []routing.Key
}

func (c *cache) get(key routing.Key) *Record { return c.records[key] }

// put remembers r, which is verified, unless something newer is known.
func (c *cache) put(key routing.Key, r *Record) {
	old := c.records[key]
	if r == nil || old != nil && old.Incarnation > r.Incarnation {
		return
	}
	if old == nil {
		if c.records == nil {
			c.records = make(map[routing.Key]*Record)
		}
		if len(c.order) >= c.max {
			delete(c.records, c.order[0])
			c.order = c.order[1:]
		}
		c.order = append(c.order, key)
	}
	c.records[key] = r
}

func (c *cache) drop(key routing.Key) {
	if _, ok := c.records[key]; !ok {
		return
	}
	delete(c.records, key)
	for i, k := range c.order {
		if k == key {
			c.order = append(c.order[:i], c.order[i+1:]...)
			break
		}
	}
}

// ask reports whether key must be asked for: nobody has, and there is room.
func (c *cache) ask(key routing.Key) bool {
	if c.asking[key] || len(c.asking) >= 64 {
		return false
	}
	if c.asking == nil {
		c.asking = make(map[routing.Key]bool)
	}
	c.asking[key] = true
	return true
}

func (c *cache) asked(key routing.Key) { delete(c.asking, key) }

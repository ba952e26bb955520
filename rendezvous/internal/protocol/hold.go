package protocol

import "time"

const (
	// HoldDatagrams is how many datagrams of one channel wait for the message
	// that opens it.
	HoldDatagrams = 8
	// HoldChannels is how many unopened channels of one session may wait.
	HoldChannels = 8
	// HoldTime is how long they wait.
	HoldTime = time.Second
)

// A Hold keeps the datagrams that overtook the opening of their channel, since
// datagrams and the control stream are not ordered among each other. The zero
// value is empty. Its owner serialises calls.
type Hold struct {
	channels map[uint64]*held
}

type held struct {
	since   time.Time
	packets [][]byte
}

// Put keeps packet, taking ownership of it, and reports whether there was room.
func (h *Hold) Put(now time.Time, channel uint64, packet []byte) bool {
	c := h.channels[channel]
	if c == nil || now.Sub(c.since) >= HoldTime {
		h.Expire(now)
		if len(h.channels) >= HoldChannels {
			return false
		}
		if h.channels == nil {
			h.channels = make(map[uint64]*held)
		}
		c = &held{since: now}
		h.channels[channel] = c
	}
	if len(c.packets) >= HoldDatagrams {
		return false
	}
	c.packets = append(c.packets, packet)
	return true
}

// Take returns what waits for channel, in order of arrival, and forgets it.
func (h *Hold) Take(now time.Time, channel uint64) [][]byte {
	c := h.channels[channel]
	if c == nil {
		return nil
	}
	delete(h.channels, channel)
	if now.Sub(c.since) >= HoldTime {
		return nil
	}
	return c.packets
}

// Expire forgets what has waited for [HoldTime] and returns how many datagrams
// that were.
func (h *Hold) Expire(now time.Time) (dropped int) {
	for channel, c := range h.channels {
		if now.Sub(c.since) >= HoldTime {
			dropped += len(c.packets)
			delete(h.channels, channel)
		}
	}
	return dropped
}

// Len returns how many datagrams wait.
func (h *Hold) Len() (n int) {
	for _, c := range h.channels {
		n += len(c.packets)
	}
	return n
}

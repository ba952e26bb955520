package ri2n

import (
	"net"
	"net/netip"
	"time"
)

const (
	// maxPLPMTU is where larger datagrams stop to pay on a loopback path,
	// measured: beyond it a burst has too few packets.
	maxPLPMTU = 16000

	// pmtuStep is the gap between what passes and what does not at which the
	// search ends: less than 2 % of a packet.
	pmtuStep = 24

	// pmtuDelay leaves the first moments of a path to its user.
	pmtuDelay = 100 * time.Millisecond

	pmtuTries     = 3
	pmtuInterval  = 10 * time.Minute // until a finished search begins anew
	pmtuBlackHole = 3                // consecutive full-size losses
)

// A pmtuSearch finds the largest datagram that a path carries, by probes that
// are never needed for anything else (RFC 8899, DPLPMTUD). The session owns
// it. Sizes are bytes of UDP payload.
type pmtuSearch struct {
	base    int       // is taken to pass
	passes  int       // the largest size that has passed
	fails   int       // the least size that has not, or one above the largest worth trying
	ceiling int       // fails of a fresh search
	size    int       // of the probe under way; zero: none
	tries   int       // at the present size
	due     time.Time // next probe; zero: none is wanted

	lost int // full-size packets in a row
}

func newPMTUSearch(base, largest int) pmtuSearch {
	return pmtuSearch{base: base, passes: base, fails: largest + 1, ceiling: largest + 1}
}

// start begins the search once the path has been proven.
func (m *pmtuSearch) start(now time.Time) {
	if m.size == 0 && m.due.IsZero() && m.next() > 0 {
		m.due = now.Add(pmtuDelay)
	}
}

// common are the sizes that networks have, largest first: jumbo frames,
// Ethernet under IPv4 and IPv6, PPPoE, common tunnels, the least of IPv6.
var common = [...]int{8972, 8952, 1472, 1452, 1444, 1424, 1372, 1252, 1232}

// next returns the size to try, or zero when the search is over.
func (m *pmtuSearch) next() int {
	if m.fails-m.passes <= pmtuStep {
		return 0
	}
	if m.fails == m.ceiling && m.ceiling <= 1500 {
		return m.ceiling - 1 // most likely of all
	}
	for _, size := range common {
		if size > m.passes && size < m.fails && (size <= 1472 || m.passes >= 1452) {
			return size
		}
	}
	if m.passes >= 1452 && m.fails == m.ceiling {
		return m.ceiling - 1
	}
	return (m.passes + m.fails) / 2
}

// probe returns the size of the probe that is due at now, or zero.
func (m *pmtuSearch) probe(now time.Time) int {
	if m.size != 0 || !isDue(m.due, now) {
		return 0
	}
	if m.next() == 0 { // the interval is over
		m.fails = m.ceiling
	}
	return m.next()
}

// sent records that a probe of size bytes left.
func (m *pmtuSearch) sent(size int) {
	m.size, m.due = size, time.Time{}
}

// acked records that a probe passed, and returns whether the PLPMTU grew.
func (m *pmtuSearch) acked(size int, now time.Time) bool {
	m.size, m.tries = 0, 0
	grew := size > m.passes
	m.passes = max(m.passes, size)
	m.schedule(now)
	return grew
}

// failed records that a probe was lost, which one may be for other reasons.
func (m *pmtuSearch) failed(size int, now time.Time) {
	if size != m.size {
		return
	}
	m.size = 0
	if m.tries++; m.tries >= pmtuTries {
		m.tries = 0
		m.fails = min(m.fails, size)
	}
	m.schedule(now)
}

func (m *pmtuSearch) schedule(now time.Time) {
	m.due = now
	if m.next() == 0 {
		m.due = now.Add(pmtuInterval)
	}
}

// blackHole takes counts of packets above the base size, and reports whether
// the path has stopped to carry them: then the base size is all there is until
// the next search.
func (m *pmtuSearch) blackHole(acked, lost int, now time.Time) bool {
	if acked > 0 {
		m.lost = 0
		return false
	}
	if m.lost += lost; m.lost < pmtuBlackHole || m.passes == m.base {
		return false
	}
	m.lost, m.tries, m.size = 0, 0, 0
	m.fails, m.passes = m.passes, m.base
	m.due = now.Add(pmtuInterval)
	return true
}

// largestDatagram is the largest payload worth trying from l to remote: what
// the local interface takes.
func (l *Link) largestDatagram(remote netip.Addr) int {
	headers := 28
	if remote.Is6() && !remote.Is4In6() {
		headers = 48
	}
	mtu := l.interfaceMTU
	if remote.IsLoopback() {
		mtu = 1 << 16
	}
	return min(max(mtu-headers, baseSize), maxPLPMTU)
}

// interfaceMTUOf returns the MTU of the interface that has addr, or the
// largest of all but loopback if addr is unspecified, or Ethernet's where the
// system does not tell, as of a simulated network.
func interfaceMTUOf(addr netip.Addr) int {
	const ethernet = 1500
	if addr.IsLoopback() {
		return 1 << 16
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return ethernet
	}
	largest := 0
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		if addr.IsUnspecified() {
			largest = max(largest, i.MTU)
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
				return i.MTU
			}
		}
	}
	if largest == 0 {
		return ethernet
	}
	return largest
}

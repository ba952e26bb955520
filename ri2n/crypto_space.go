package ri2n

// maxCryptoBuffer bounds what is buffered of one level, in bytes.
const maxCryptoBuffer = 16 << 10

// A cryptoSpace is one encryption level of the handshake.
type cryptoSpace struct {
	read, write *packetKeys
	in          recvBuffer
	out         []byte
	outSent     int // below: has been sent at least once
	acked       intervalSet
	nextNumber  uint16
	received    receivedPackets
	ackDue      bool
	sent        []sentCrypto
}

// sentCrypto remembers which part of out a packet carried.
type sentCrypto struct {
	number     packetNumber
	start, end int
}

func (s *cryptoSpace) acknowledge(ranges []ackRange) {
	kept := s.sent[:0]
	for _, p := range s.sent {
		covered := false
		for _, r := range ranges {
			covered = covered || p.number >= r.smallest && p.number <= r.largest
		}
		if covered {
			s.acked.add(uint64(p.start), uint64(p.end))
		} else {
			kept = append(kept, p)
		}
	}
	s.sent = kept
}

// outstanding calls f for the parts of out that the peer has not acknowledged
// and, unless all is set, that have not been sent yet.
func (s *cryptoSpace) outstanding(all bool, f func(start, end int)) {
	at := s.outSent
	if all {
		at = 0
	}
	for at < len(s.out) {
		end := len(s.out)
		skip := false
		for _, iv := range s.acked.list {
			if int(iv.end) <= at {
				continue
			}
			if int(iv.start) <= at {
				at, skip = int(iv.end), true
			} else {
				end = min(end, int(iv.start))
			}
			break
		}
		if skip {
			continue
		}
		f(at, end)
		at = end
	}
}

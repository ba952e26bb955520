package protocol

// MinRelayed is the smallest size that a channel's datagrams are ever limited
// to, in bytes: the least that a responder accepts as an Initial.
const MinRelayed = 1000

// AppendFrame extends b by one relayed packet of channel: the payload of a
// datagram of the session between agent and rendezvous
// (docs/rendezvous-protocol.md, section 4).
func AppendFrame(b []byte, channel uint64, packet []byte) []byte {
	return append(AppendVarint(b, channel), packet...)
}

// ParseFrame splits a datagram into channel and packet, which aliases b. An
// empty packet is refused.
func ParseFrame(b []byte) (channel uint64, packet []byte, err error) {
	channel, packet, err = ParseVarint(b)
	if err != nil {
		return 0, nil, err
	}
	if len(packet) == 0 {
		return 0, nil, errShort
	}
	return channel, packet, nil
}

// Relayed returns how large a packet of channel may be in a session whose
// datagrams hold outer bytes. It is never below [MinRelayed].
func Relayed(outer int, channel uint64) int {
	return max(outer-VarintLen(channel), MinRelayed)
}

package ri2n

import "fmt"

// An errorCode says in a CLOSE frame why a session ends, and in
// RESET_STREAM and STOP_SENDING why a stream does. Codes of the transport
// are below 0x100, TLS alerts follow, and the application has the rest
// (docs/wire-format.md, section 7).
type errorCode uint64

// Untyped, since frames carry a uint64 and diagnostics an errorCode.
const (
	codeNoError            = 0  // orderly close
	codeInternal           = 1  // the sender of the code cannot go on
	codeFlowControl        = 2  // more data than MAX_DATA or MAX_STREAM_DATA allow
	codeStreamLimit        = 3  // more streams than MAX_STREAMS allows
	codeStreamState        = 4  // frame for a stream that cannot have it
	codeFinalSize          = 5  // data past the end, or two ends
	codeFrameEncoding      = 6  // frame unknown or malformed
	codeTransportParameter = 7  // missing, malformed or not matching the handshake
	codeProtocolViolation  = 8  // anything else the format forbids
	codeAckUnsent          = 9  // PATH_ACK of a packet that was never sent
	codePathLimit          = 10 // no room for another path
	codeKeyUpdate          = 11 // key updates too close together
	codeAEADLimit          = 12 // too many packets under a key
	codeCryptoBuffer       = 13 // more out-of-order CRYPTO data than is buffered
	codeRefused            = 14 // the responder does not want this peer or stream
	codeTLSAlert           = 0x100
	codeApplication        = 0x1000
)

// String returns a few words for logs and error texts.
func (c errorCode) String() string {
	switch {
	case c >= codeApplication:
		return fmt.Sprintf("application error %#x", uint64(c))
	case c >= codeTLSAlert && c <= codeTLSAlert+0xff:
		return fmt.Sprintf("TLS alert %d", uint64(c-codeTLSAlert))
	}
	switch c {
	case codeNoError:
		return "no error"
	case codeInternal:
		return "internal error"
	case codeFlowControl:
		return "flow control violated"
	case codeStreamLimit:
		return "stream limit exceeded"
	case codeStreamState:
		return "stream in wrong state"
	case codeFinalSize:
		return "final size changed"
	case codeFrameEncoding:
		return "frame malformed"
	case codeTransportParameter:
		return "transport parameters invalid"
	case codeProtocolViolation:
		return "protocol violation"
	case codeAckUnsent:
		return "unsent packet acknowledged"
	case codePathLimit:
		return "path limit exceeded"
	case codeKeyUpdate:
		return "key update error"
	case codeAEADLimit:
		return "AEAD limit reached"
	case codeCryptoBuffer:
		return "crypto buffer exceeded"
	case codeRefused:
		return "refused"
	}
	return fmt.Sprintf("error %#x", uint64(c))
}

package ri2n

// This file is the public face as first agreed; bodies move to their own
// files as they are written.

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

var errStub = errors.New("ri2n: stub")

// Config of an Endpoint. Only Identity is required.
type Config struct {
	Identity *Identity
	// Authorize decides whether peer may open a session to us. It is called
	// once the peer has proven its key, on a handshake worker, and must not
	// block. Nil refuses everybody (default is closed).
	Authorize         func(peer PeerID) error
	Logger            *slog.Logger  // nil: silent
	Rand              io.Reader     // nil: crypto/rand
	HandshakeTimeout  time.Duration // zero: 10 s
	IdleTimeout       time.Duration // zero: 60 s
	KeepaliveInterval time.Duration // zero: 15 s; negative: none
	MaxSessions       int           // zero: 16384
}

// An Endpoint owns links and the sessions that run over them.
type Endpoint struct{}

func NewEndpoint(cfg Config) (*Endpoint, error) { return nil, errStub }
func (e *Endpoint) PeerID() PeerID              { return PeerID{} }

// AddLink makes pc, one UDP socket bound to one local network attachment, a
// link of the endpoint. The endpoint owns pc from here on.
func (e *Endpoint) AddLink(name string, pc net.PacketConn) (*Link, error) { return nil, errStub }

// AddCarrier makes c, a relay channel to one peer, a link of the endpoint.
func (e *Endpoint) AddCarrier(name string, c Carrier) (*Link, error) { return nil, errStub }

// Dial opens a session to peer over the first candidate that answers. The same
// Initial goes to every candidate, 0, 20, 50, 100 ... ms after the call.
func (e *Endpoint) Dial(ctx context.Context, peer PeerID, candidates ...Remote) (*Session, error) {
	return nil, errStub
}

// Accept returns the next session that a peer opened and Authorize let in.
func (e *Endpoint) Accept(ctx context.Context) (*Session, error) { return nil, errStub }

// Close closes every session, then every link. It may be called twice.
func (e *Endpoint) Close() error { return nil }

// A Remote is where a path leads: a transport address reached from a link. For
// a carrier link Addr is the zero AddrPort.
type Remote struct {
	Link *Link
	Addr netip.AddrPort
}

// A Carrier moves datagrams to and from one peer in place of a UDP socket: a
// relay channel. Send may drop; it must not block and must not keep b.
// What arrives is handed to Link.Deliver by the carrier's owner.
type Carrier interface {
	Send(b []byte) error
	MaxDatagram() int // largest datagram that Send takes now, in bytes; at least 1000
}

// A Link is one local network attachment, or a carrier.
type Link struct{}

func (l *Link) Name() string        { return "" }
func (l *Link) LocalAddr() net.Addr { return nil }
func (l *Link) IsCarrier() bool     { return false }

// Other returns the datagrams of the link's socket that are not RI2N (first
// byte with bit 6 clear: STUN and probes), as a net.PacketConn that sends from
// the same socket. Reads see a bounded queue that drops its oldest.
func (l *Link) Other() net.PacketConn { return nil }

// Deliver hands the link a datagram that arrived on its carrier. The link may
// change b during the call and keeps no reference to it.
func (l *Link) Deliver(b []byte) {}

// Close abandons the paths of the link and closes its socket.
func (l *Link) Close() error { return nil }

// A Session is the encrypted association with one peer.
type Session struct{}

func (s *Session) Peer() PeerID   { return PeerID{} }
func (s *Session) IsClient() bool { return false }

// OpenStream opens a bidirectional stream; it blocks while the peer's limit on
// streams is reached. The peer learns of the stream with its first bytes.
func (s *Session) OpenStream(ctx context.Context) (*Stream, error)   { return nil, errStub }
func (s *Session) AcceptStream(ctx context.Context) (*Stream, error) { return nil, errStub }

// SendDatagram queues one unreliable datagram (RFC 9221). Datagrams of one flow
// keep their order; flows share the session fairly (deficit round robin). Each
// flow queues at most 64 datagrams or 50 ms and drops from its head. b is copied.
func (s *Session) SendDatagram(flow uint64, b []byte) error            { return errStub }
func (s *Session) ReceiveDatagram(ctx context.Context) ([]byte, error) { return nil, errStub }
func (s *Session) MaxDatagramSize() int                                { return 0 }

// AddPath opens a path to r and returns once full-size probes have been
// answered, or with the reason why not. It is called by either side.
func (s *Session) AddPath(ctx context.Context, r Remote) (PathInfo, error) {
	return PathInfo{}, errStub
}

// AbandonPath closes one path. The last path cannot be abandoned.
func (s *Session) AbandonPath(id uint32) error { return errStub }

// Paths returns a snapshot. Exactly one path of a live session is Sending.
func (s *Session) Paths() []PathInfo { return nil }

// PathsChanged returns a channel that is closed at the next change of a path's
// state or of the sending path; call it again for the one after.
func (s *Session) PathsChanged() <-chan struct{} { return nil }

// Export derives n bytes that only the two ends know (RFC 8446, section 7.5).
func (s *Session) Export(label string, context []byte, n int) ([]byte, error) { return nil, errStub }

func (s *Session) Done() <-chan struct{}                           { return nil }
func (s *Session) Err() error                                      { return nil }
func (s *Session) Close() error                                    { return nil }
func (s *Session) CloseWithError(code uint64, reason string) error { return nil }

// PathState as in docs/architecture.md.
type PathState int

const (
	PathProbing PathState = iota
	PathActive
	PathStandby
	PathSuspect
	PathFailed
	PathClosed
)

// PathInfo describes one path of a session at one moment.
type PathInfo struct {
	ID                                        uint32
	Link                                      string
	Local, Remote                             netip.AddrPort // zero for a carrier
	Carrier                                   bool
	State                                     PathState
	Sending                                   bool // this side sends its data here
	RTT, RTTVar, MinRTT                       time.Duration
	CongestionWindow                          int
	MTU                                       int // bytes of UDP payload
	PacketsSent, PacketsReceived, PacketsLost uint64
	BytesSent, BytesReceived                  uint64
	LastReceived                              time.Time
}

// A Stream is a reliable byte stream: a net.Conn with CloseWrite.
type Stream struct{}

func (st *Stream) ID() uint64                  { return 0 }
func (st *Stream) Session() *Session           { return nil }
func (st *Stream) Read(b []byte) (int, error)  { return 0, errStub }
func (st *Stream) Write(b []byte) (int, error) { return 0, errStub }
func (st *Stream) Close() error                { return nil }
func (st *Stream) CloseWrite() error           { return nil }

// Reset aborts both directions with an application code; the peer's Read and
// Write return a *StreamError with that code.
func (st *Stream) Reset(code uint64)                  {}
func (st *Stream) LocalAddr() net.Addr                { return nil } // Addr{peer, session}
func (st *Stream) RemoteAddr() net.Addr               { return nil }
func (st *Stream) SetDeadline(t time.Time) error      { return errStub }
func (st *Stream) SetReadDeadline(t time.Time) error  { return errStub }
func (st *Stream) SetWriteDeadline(t time.Time) error { return errStub }

// A StreamError is the peer's Reset of a stream; it is syscall.ECONNRESET to
// errors.Is.
type StreamError struct{ Code uint64 }

func (e *StreamError) Error() string { return "" }

// A RemoteError is the code and reason with which the peer closed the session;
// a LocalError is ours.
type RemoteError struct {
	Code   uint64
	Reason string
}

func (e *RemoteError) Error() string { return "" }

type LocalError struct {
	Code   uint64
	Reason string
}

func (e *LocalError) Error() string { return "" }

// A PeerMismatchError: somebody else than the dialed peer answered.
type PeerMismatchError struct{ Want, Got PeerID }

func (e *PeerMismatchError) Error() string { return "" }

// A DialError says which peer could not be reached, and where it was tried.
type DialError struct {
	Peer  PeerID
	Tried []string
	Err   error
}

func (e *DialError) Error() string { return "" }
func (e *DialError) Unwrap() error { return e.Err }

var (
	ErrIdleTimeout      error = errStub // net.Error with Timeout() true
	ErrHandshakeTimeout error = errStub // likewise
	ErrRefused          error = errStub // the peer's Authorize said no
	ErrNoPath           error = errStub // AddPath: the probes were not answered
)

package punch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/transport/v5"
)

const (
	// checkInterval is how often pion/ice repeats unanswered checks. Measured
	// over simulated NATs at 40 ms round trip: 200 ms, its default, made 0.68 s
	// from start to selection, 50 ms made 0.13 s.
	checkInterval = 50 * time.Millisecond
	// maxBindingRequests makes a pair fail after two seconds of silence.
	maxBindingRequests = 40
	// disconnectedTimeout and no failed time-out: consent is ri2n's business,
	// and a failed agent would wipe its candidates.
	disconnectedTimeout = 40 * time.Second
)

// newICEAgent makes an agent that checks from m under the given credentials.
// It gathers host candidates from m alone: our reflexive addresses are
// signalled instead, and checks leave from their base anyway (RFC 8445,
// section 5.1.3).
func newICEAgent(m *Mux, ufrag, pwd string, log *slog.Logger) (*ice.Agent, error) {
	agent, err := ice.NewAgentWithOptions(
		ice.WithLoggerFactory(iceLoggers{log}),
		ice.WithNet(noNet{}),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithDisableActiveTCP(),
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}),
		ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}),
		ice.WithUDPMux(m),
		ice.WithLocalCredentials(ufrag, pwd),
		ice.WithCheckInterval(checkInterval),
		ice.WithMaxBindingRequests(maxBindingRequests),
		ice.WithHostAcceptanceMinWait(0),
		ice.WithSrflxAcceptanceMinWait(0),
		ice.WithPrflxAcceptanceMinWait(0),
		ice.WithRelayAcceptanceMinWait(0),
		// ri2n keeps the path alive once it is proven, and the agent ends soon
		// after selection. (pion/ice pings at least every 2 s for any
		// interval but zero.)
		ice.WithKeepaliveInterval(0),
		ice.WithDisconnectedTimeout(disconnectedTimeout),
		ice.WithFailedTimeout(0),
	)
	if err != nil {
		return nil, fmt.Errorf("punch: make ICE agent: %w", err)
	}
	return agent, nil
}

// iceCandidate turns c into the form that pion/ice reads.
func iceCandidate(c Candidate) (ice.Candidate, error) {
	address, port := c.Addr.Addr().String(), int(c.Addr.Port())
	if c.Kind == KindHost {
		return ice.NewCandidateHost(&ice.CandidateHostConfig{
			Network: "udp", Address: address, Port: port, Component: 1, Priority: c.Priority,
		})
	}
	return ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
		Network: "udp", Address: address, Port: port, Component: 1, Priority: c.Priority,
	})
}

// errNoNet answers whatever pion/ice might ask of a network.
var errNoNet = errors.New("punch: agents use the mux only")

// noNet is a transport.Net without interfaces: agents reach the network
// through the mux and nowhere else, on a simulated network as on a real one.
type noNet struct{}

func (noNet) ListenPacket(string, string) (net.PacketConn, error)           { return nil, errNoNet }
func (noNet) ListenUDP(string, *net.UDPAddr) (transport.UDPConn, error)     { return nil, errNoNet }
func (noNet) ListenTCP(string, *net.TCPAddr) (transport.TCPListener, error) { return nil, errNoNet }
func (noNet) Dial(string, string) (net.Conn, error)                         { return nil, errNoNet }
func (noNet) DialUDP(string, *net.UDPAddr, *net.UDPAddr) (transport.UDPConn, error) {
	return nil, errNoNet
}
func (noNet) DialTCP(string, *net.TCPAddr, *net.TCPAddr) (transport.TCPConn, error) {
	return nil, errNoNet
}
func (noNet) ResolveIPAddr(string, string) (*net.IPAddr, error)           { return nil, errNoNet }
func (noNet) ResolveUDPAddr(string, string) (*net.UDPAddr, error)         { return nil, errNoNet }
func (noNet) ResolveTCPAddr(string, string) (*net.TCPAddr, error)         { return nil, errNoNet }
func (noNet) Interfaces() ([]*transport.Interface, error)                 { return nil, nil }
func (noNet) InterfaceByIndex(int) (*transport.Interface, error)          { return nil, errNoNet }
func (noNet) InterfaceByName(string) (*transport.Interface, error)        { return nil, errNoNet }
func (noNet) CreateDialer(*net.Dialer) transport.Dialer                   { return noDialer{} }
func (noNet) CreateListenConfig(*net.ListenConfig) transport.ListenConfig { return noListenConfig{} }

type noDialer struct{}

func (noDialer) Dial(string, string) (net.Conn, error) { return nil, errNoNet }

type noListenConfig struct{}

func (noListenConfig) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errNoNet
}

func (noListenConfig) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errNoNet
}

// iceLoggers feeds pion's log to slog, two levels lower: what it warns of is
// ordinary for us, since anybody can send us bad packets.
type iceLoggers struct{ log *slog.Logger }

func (f iceLoggers) NewLogger(scope string) logging.LeveledLogger {
	return iceLogger{f.log.With("scope", scope)}
}

type iceLogger struct{ log *slog.Logger }

const levelTrace = slog.LevelDebug - 4

func (l iceLogger) put(level slog.Level, text string) {
	l.log.Log(context.Background(), level, text)
}

func (l iceLogger) putf(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.put(level, fmt.Sprintf(format, args...))
	}
}

func (l iceLogger) Trace(msg string)                  { l.put(levelTrace, msg) }
func (l iceLogger) Tracef(format string, args ...any) { l.putf(levelTrace, format, args) }
func (l iceLogger) Debug(msg string)                  { l.put(levelTrace, msg) }
func (l iceLogger) Debugf(format string, args ...any) { l.putf(levelTrace, format, args) }
func (l iceLogger) Info(msg string)                   { l.put(levelTrace, msg) }
func (l iceLogger) Infof(format string, args ...any)  { l.putf(levelTrace, format, args) }
func (l iceLogger) Warn(msg string)                   { l.put(slog.LevelDebug, msg) }
func (l iceLogger) Warnf(format string, args ...any)  { l.putf(slog.LevelDebug, format, args) }
func (l iceLogger) Error(msg string)                  { l.put(slog.LevelInfo, msg) }
func (l iceLogger) Errorf(format string, args ...any) { l.putf(slog.LevelInfo, format, args) }

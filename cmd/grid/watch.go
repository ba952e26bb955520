package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/instantgrid/instantgrid/overlay"
)

// A watchView is the terminal view of grid status --watch: a screen made of two
// statuses, the newest and the one before, whose difference is the rates.
type watchView struct {
	look     func(context.Context) (overlay.Status, error)
	interval time.Duration
	ctx      context.Context

	now, before look
	err         error // of the newest look; the status is that of before
	order       watchOrder
	details     bool
	top         int // peers scrolled past
	width       int
	height      int
}

// A look is a status and when it was taken.
type look struct {
	at     time.Time
	status overlay.Status
	err    error
}

// A watchOrder is what peers are sorted by.
type watchOrder int

const (
	byName watchOrder = iota
	byRTT
	byRate
	byPath
	orders
)

func (o watchOrder) String() string { return [...]string{"name", "rtt", "rate", "path"}[o] }

var (
	watchBold   = lipgloss.NewStyle().Bold(true)
	watchDirect = lipgloss.NewStyle().Foreground(lipgloss.Green)
	watchRelay  = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	watchBad    = lipgloss.NewStyle().Foreground(lipgloss.Red)
)

// watchStatus shows what look returns until a key or ctx ends it.
func watchStatus(ctx context.Context, in io.Reader, out io.Writer, interval time.Duration, look func(context.Context) (overlay.Status, error)) error {
	v := &watchView{look: look, interval: interval, ctx: ctx, width: 80, height: 24}
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler(), tea.WithEnvironment(os.Environ())}
	if _, err := tea.NewProgram(v, options...).Run(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// Init implements [tea.Model].
func (v *watchView) Init() tea.Cmd { return v.next(0) }

// next looks after a pause.
func (v *watchView) next(pause time.Duration) tea.Cmd {
	return func() tea.Msg {
		select {
		case <-time.After(pause):
		case <-v.ctx.Done():
			return tea.Quit()
		}
		s, err := v.look(v.ctx)
		return look{time.Now(), s, err}
	}
}

// Update implements [tea.Model].
func (v *watchView) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		v.width, v.height = msg.Width, msg.Height
	case look:
		if v.err = msg.err; msg.err == nil {
			v.before, v.now = v.now, msg
		}
		return v, v.next(v.interval)
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return v, tea.Quit
		case "s":
			v.order = (v.order + 1) % orders
		case "d", "enter":
			v.details = !v.details
		case "down", "j":
			v.top++
		case "up", "k":
			v.top--
		case "home", "g":
			v.top = 0
		}
		v.top = max(0, min(v.top, len(v.now.status.Peers)-1))
	}
	return v, nil
}

// View implements [tea.Model].
func (v *watchView) View() tea.View {
	screen := tea.NewView(v.screen())
	screen.AltScreen = true
	return screen
}

// screen returns what is shown: exactly height lines of at most width columns.
func (v *watchView) screen() string {
	keys := fmt.Sprintf("q quit   s sort (now: %s)   d details (now: %s)   up, down", v.order, map[bool]string{false: "off", true: "on"}[v.details])
	lines := v.head()
	room := max(v.height-len(lines)-1, 0)
	peers := v.peers()
	lines = append(lines, peers[:min(room, len(peers))]...)
	for len(lines) < v.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, watchBold.Render(keys))
	for i, l := range lines {
		lines[i] = lipgloss.NewStyle().MaxWidth(v.width).Render(l)
	}
	return strings.Join(lines, "\n")
}

// head describes the node, its rendezvous and its links.
func (v *watchView) head() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	s := v.now.status
	if v.now.at.IsZero() {
		add("looking ...")
		if v.err != nil {
			add("%s", watchBad.Render("error: "+v.err.Error()))
		}
		return lines
	}
	switch g := s.Grid; {
	case g == nil:
		add("node        %s", s.PeerID)
	case g.Self == nil:
		add("node        %s  %s", s.PeerID, watchBad.Render("not a member of "+g.Name+" now: "+g.Error))
	default:
		add("node        %s  %s  %s, %d members", watchBold.Render(fullName(g.Self.Name, g.Name)), g.Self.Roles, g.Self.Address, g.Members)
		if g.Stale || g.Hidden {
			add("            %s", watchBad.Render("the revocation list was last confirmed "+v.now.at.Sub(g.Confirmed).Round(time.Second).String()+" ago"))
		}
	}
	switch r := s.Rendezvous; {
	case r.Address == "":
		add("rendezvous  none")
	case r.Registered:
		host, _, _ := strings.Cut(r.Address, "#")
		add("rendezvous  %s  registered  %s", host, rttText(r.RTT))
	default:
		host, _, _ := strings.Cut(r.Address, "#")
		add("rendezvous  %s  %s", host, watchBad.Render("not registered: "+orText(r.Error, "connecting")))
	}
	for _, l := range s.Links {
		sent, received := v.rate(func(s overlay.Status) (sent, received uint64) { return linkBytes(s, l.Name) })
		add("link        %s  %s, outside %s  sends %s, receives %s  %s", l.Name, l.Local, orUnknown(l.Outside), rateText(sent), rateText(received), l.Behavior)
	}
	if v.err != nil {
		add("%s", watchBad.Render("error: "+v.err.Error()+"; the state of "+v.now.at.Format("15:04:05")))
	}
	return append(lines, "")
}

// linkBytes adds up what went over all paths of a link.
func linkBytes(s overlay.Status, link string) (sent, received uint64) {
	for _, p := range s.Peers {
		for _, path := range p.Paths {
			if path.Link == link {
				sent += path.BytesSent
				received += path.BytesReceived
			}
		}
	}
	return sent, received
}

// rate returns how fast two counters grow, in bytes a second; -1 is not known.
// A counter that went back, since a path has ended, has not grown.
func (v *watchView) rate(of func(overlay.Status) (sent, received uint64)) (sent, received float64) {
	seconds := v.now.at.Sub(v.before.at).Seconds()
	if v.before.at.IsZero() || seconds <= 0 {
		return -1, -1
	}
	s1, r1 := of(v.now.status)
	s0, r0 := of(v.before.status)
	return float64(max(s1, s0)-s0) / seconds, float64(max(r1, r0)-r0) / seconds
}

func rateText(bytesPerSecond float64) string {
	if bytesPerSecond < 0 {
		return "-"
	}
	return sizeText(int64(bytesPerSecond)) + "/s"
}

// peerRate is the rate of one peer's paths.
func (v *watchView) peerRate(p overlay.PeerStatus) (sent, received float64) {
	return v.rate(func(s overlay.Status) (sent, received uint64) {
		for _, q := range s.Peers {
			if q.ID == p.ID {
				for _, path := range q.Paths {
					sent += path.BytesSent
					received += path.BytesReceived
				}
			}
		}
		return sent, received
	})
}

// peers is a table of the peers, from the first that is not scrolled past.
func (v *watchView) peers() (lines []string) {
	if v.now.at.IsZero() {
		return nil
	}
	list := slices.Clone(v.now.status.Peers)
	slices.SortStableFunc(list, v.compare)
	lines = append(lines, watchBold.Render(fmt.Sprintf("%-20s %-11s %9s %12s %12s %10s  %s", "PEER", "PATH", "RTT", "SENDS", "RECEIVES", "UP", "WHERE TO, OR WHY NOT DIRECT")))
	if len(list) == 0 {
		return append(lines, "none now")
	}
	for _, p := range list[min(v.top, len(list)-1):] {
		sent, received := v.peerRate(p)
		kind, style := p.Path.Kind, watchRelay
		why := p.Path.Reason
		if p.Path.Kind == overlay.KindDirect {
			style = watchDirect
			why = p.Path.Remote.String()
		}
		if r := p.Path.Relay; r != nil {
			why += " (through " + orText(r.Name, r.Peer.Short()) + ")"
		}
		lines = append(lines, fmt.Sprintf("%-20.20s %s %9s %12s %12s %10s  %s", peerText(p), style.Render(fmt.Sprintf("%-11s", kind)),
			rttText(p.Path.RTT), rateText(sent), rateText(received), v.now.at.Sub(p.Since).Round(time.Second), why))
		if p.Path.Kind != overlay.KindDirect && p.Path.Advice != "" {
			lines = append(lines, "  to make it direct: "+p.Path.Advice)
		}
		if v.details {
			lines = append(lines, "  "+p.ID.String())
			for _, path := range p.Paths {
				lines = append(lines, fmt.Sprintf("  %-10s %-24s link %-8s %-8s %9s  MTU %d  sent %s  received %s  lost %d packets",
					path.Kind, addressText(path), path.Link, path.State, rttText(path.RTT), path.MTU, sizeText(int64(path.BytesSent)), sizeText(int64(path.BytesReceived)), path.PacketsLost))
			}
		}
	}
	return lines
}

func addressText(p overlay.PathStatus) string {
	if p.Remote.IsValid() {
		return p.Remote.String()
	}
	return "-"
}

// peerText is what people call a peer.
func peerText(p overlay.PeerStatus) string {
	if p.Name != "" {
		return p.Name
	}
	return p.ID.Short()
}

// compare orders peers as the user has chosen, and by name where that is equal.
func (v *watchView) compare(a, b overlay.PeerStatus) int {
	order := 0
	switch v.order {
	case byRTT:
		order = cmp.Compare(a.Path.RTT, b.Path.RTT)
	case byRate:
		s1, r1 := v.peerRate(a)
		s2, r2 := v.peerRate(b)
		order = cmp.Compare(s2+r2, s1+r1)
	case byPath: // what is not direct is what one looks for
		order = cmp.Compare(b.Path.Kind, a.Path.Kind)
	}
	if order == 0 {
		order = strings.Compare(peerText(a), peerText(b))
	}
	return order
}

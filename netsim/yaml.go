package netsim

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxScenarioFile is the largest scenario file that is read, in bytes: a
// guess, some thousand nodes. The YAML parser takes quadratic time for deep
// nesting.
const maxScenarioFile = 1 << 18

// LoadScenario reads a scenario from a YAML file and validates it. What is
// wrong in the file is a *ScenarioError with file, line and field.
//
// Keys are those of Scenario in lower case with underscores, unknown ones are
// refused. Durations are written as in "10ms", rates as in "20M" (k, M and G
// are powers of 1000), behaviors in full ("address-and-port-dependent").
func LoadScenario(file string) (Scenario, error) {
	f, err := os.Open(file)
	if err != nil {
		return Scenario{}, fmt.Errorf("netsim: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxScenarioFile+1))
	if err != nil {
		return Scenario{}, fmt.Errorf("netsim: read scenario: %w", err)
	}
	if len(data) > maxScenarioFile {
		return Scenario{}, &ScenarioError{File: file, Reason: fmt.Sprintf("is larger than %d bytes", maxScenarioFile)}
	}
	return ParseScenario(file, data)
}

// ParseScenario is LoadScenario of a file's content; file is its name in
// errors.
func ParseScenario(file string, data []byte) (Scenario, error) {
	sc, err := parseScenario(data)
	var bad *ScenarioError
	if errors.As(err, &bad) {
		bad.File = file
	}
	return sc, err
}

//go:embed scenarios/*.yaml
var scenarios embed.FS

// Scenarios returns the names of the scenarios that come with the package.
func Scenarios() []string {
	files, err := fs.Glob(scenarios, "scenarios/*.yaml")
	if err != nil {
		panic("netsim: the pattern of embedded scenarios is malformed")
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	return files
}

// NamedScenario returns a scenario that comes with the package. The error of
// an unknown name is fs.ErrNotExist.
func NamedScenario(name string) (Scenario, error) {
	file := name + ".yaml"
	data, err := scenarios.ReadFile("scenarios/" + file)
	if err != nil {
		return Scenario{}, fmt.Errorf("netsim: no scenario %q, only %s: %w",
			name, strings.Join(Scenarios(), ", "), fs.ErrNotExist)
	}
	return ParseScenario(file, data)
}

func parseScenario(data []byte) (Scenario, error) {
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		return Scenario{}, yamlError(err)
	}
	var docs int
	for _, d := range tree.Docs {
		if d.Body != nil {
			docs++
		}
	}
	if docs != 1 {
		return Scenario{}, &ScenarioError{Reason: fmt.Sprintf("holds %d documents, not one scenario", docs)}
	}
	var y yamlScenario
	if err := yaml.UnmarshalWithOptions(data, &y, yaml.Strict()); err != nil {
		return Scenario{}, yamlError(err)
	}
	sc, err := y.scenario()
	if err != nil {
		return Scenario{}, err
	}
	if err := sc.Validate(); err != nil {
		var bad *ScenarioError
		if errors.As(err, &bad) {
			bad.Line = lineOf(tree, bad.Field)
		}
		return Scenario{}, err
	}
	return sc, nil
}

// yamlError turns an error of the YAML library, which spans lines, into ours.
func yamlError(err error) error {
	var own *ScenarioError
	if errors.As(err, &own) {
		return own
	}
	var bad yaml.Error
	if !errors.As(err, &bad) {
		return &ScenarioError{Reason: err.Error()}
	}
	e := &ScenarioError{Reason: bad.GetMessage()}
	if t := bad.GetToken(); t != nil && t.Position != nil {
		e.Line = t.Position.Line
	}
	return e
}

// lineOf returns the line of a field, or of the nearest one that holds it
// where it is absent; zero if there is none.
func lineOf(tree *ast.File, field string) int {
	for field != "" {
		if p, err := yaml.PathString("$." + field); err == nil {
			if n, err := p.FilterFile(tree); err == nil && n != nil && n.GetToken() != nil {
				return n.GetToken().Position.Line
			}
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return 0
}

// The yaml types mirror Scenario. Their scalars stay text until scenario reads
// them, so that every error knows its line.
type yamlScenario struct {
	Name  yamlText   `yaml:"name"`
	Seed  yamlText   `yaml:"seed"`
	NATs  []yamlNAT  `yaml:"nats"`
	Hosts []yamlHost `yaml:"hosts"`

	Events []yamlEvent `yaml:"events"`
}

type yamlNAT struct {
	Name   yamlText `yaml:"name"`
	Parent yamlText `yaml:"parent"`
	Uplink yamlLink `yaml:"uplink"`
	Inside yamlText `yaml:"inside"`
	NAT    struct {
		Mapping           yamlText      `yaml:"mapping"`
		Filtering         yamlText      `yaml:"filtering"`
		Allocation        yamlText      `yaml:"allocation"`
		Delta             yamlText      `yaml:"delta"`
		CrossTraffic      yamlText      `yaml:"cross_traffic"`
		FirstPort         yamlText      `yaml:"first_port"`
		LastPort          yamlText      `yaml:"last_port"`
		Block             yamlText      `yaml:"block"`
		Addresses         yamlText      `yaml:"addresses"`
		Pooling           yamlText      `yaml:"pooling"`
		Lifetime          yamlText      `yaml:"lifetime"`
		Unreplied         yamlText      `yaml:"unreplied"`
		InboundRefresh    yamlText      `yaml:"inbound_refresh"`
		NoOutboundRefresh yamlText      `yaml:"no_outbound_refresh"`
		Sessions          yamlText      `yaml:"sessions"`
		EvictOldest       yamlText      `yaml:"evict_oldest"`
		Hairpinning       yamlText      `yaml:"hairpinning"`
		HairpinInside     yamlText      `yaml:"hairpin_inside"`
		Firewall          *yamlFirewall `yaml:"firewall"`
	} `yaml:"nat"`
}

type yamlFirewall struct {
	BlockUDP   yamlText   `yaml:"block_udp"`
	Ports      []yamlText `yaml:"ports"`
	PacketRate yamlText   `yaml:"packet_rate"`
	DropFirst  yamlText   `yaml:"drop_first"`
	DropSTUN   yamlText   `yaml:"drop_stun"`
}

type yamlHost struct {
	Name   yamlText `yaml:"name"`
	Parent yamlText `yaml:"parent"`
	Uplink yamlLink `yaml:"uplink"`
	Of     yamlText `yaml:"of"`
}

type yamlEvent struct {
	At     yamlText `yaml:"at"`
	Node   yamlText `yaml:"node"`
	Do     yamlText `yaml:"do"`
	Uplink yamlLink `yaml:"uplink"`
	Every  yamlText `yaml:"every"`
	Times  yamlText `yaml:"times"`
}

type yamlLink struct {
	Delay     yamlText   `yaml:"delay"`
	Jitter    yamlText   `yaml:"jitter"`
	Loss      yamlText   `yaml:"loss"`
	Burst     *yamlBurst `yaml:"burst"`
	Rate      yamlText   `yaml:"rate"`
	Queue     yamlText   `yaml:"queue"`
	Duplicate yamlText   `yaml:"duplicate"`
	Reorder   yamlText   `yaml:"reorder"`
	MTU       yamlText   `yaml:"mtu"`
	TooBig    yamlText   `yaml:"too_big"`
	Cut       yamlText   `yaml:"cut"`
	Down      *yamlLink  `yaml:"down"`
}

type yamlBurst struct {
	GoodToBad yamlText `yaml:"good_to_bad"`
	BadToGood yamlText `yaml:"bad_to_good"`
	LossGood  yamlText `yaml:"loss_good"`
	LossBad   yamlText `yaml:"loss_bad"`
}

// A yamlText is a scalar as it is written. Absent and null ones are empty.
type yamlText struct {
	text  string
	line  int
	field string
}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (t *yamlText) UnmarshalYAML(n ast.Node) error {
	t.field = strings.TrimPrefix(n.GetPath(), "$.")
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		t.line = tok.Position.Line
	}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		t.text = n.Value
	case ast.ScalarNode:
		t.text = n.GetToken().Value
	default:
		return &ScenarioError{Line: t.line, Field: t.field, Reason: "is not a single value"}
	}
	return nil
}

// A yamlReader reads scalars and keeps the first error.
type yamlReader struct{ err error }

// read parses t, if it was given, into *to.
func read[T any](r *yamlReader, t yamlText, to *T, parse func(string) (T, error)) {
	if t.text == "" || r.err != nil {
		return
	}
	v, err := parse(t.text)
	if err != nil {
		r.err = &ScenarioError{Line: t.line, Field: t.field, Reason: err.Error()}
		return
	}
	*to = v
}

func (y *yamlScenario) scenario() (Scenario, error) {
	var r yamlReader
	sc := Scenario{Name: y.Name.text}
	read(&r, y.Seed, &sc.Seed, parseSeed)
	for _, n := range y.NATs {
		out := NATNode{Name: n.Name.text, Parent: n.Parent.text, Uplink: n.Uplink.link(&r)}
		read(&r, n.Inside, &out.Inside, parseNetwork)
		out.NAT = n.nat(&r)
		sc.NATs = append(sc.NATs, out)
	}
	for _, h := range y.Hosts {
		sc.Hosts = append(sc.Hosts, HostNode{Name: h.Name.text, Parent: h.Parent.text, Uplink: h.Uplink.link(&r), Of: h.Of.text})
	}
	for _, e := range y.Events {
		out := Event{Node: e.Node.text, Uplink: e.Uplink.link(&r)}
		read(&r, e.At, &out.At, parseDuration)
		read(&r, e.Do, &out.Do, parseName[Action])
		read(&r, e.Every, &out.Every, parseDuration)
		read(&r, e.Times, &out.Times, parseCount)
		if e.Do.text == "" && r.err == nil {
			r.err = &ScenarioError{Line: e.Node.line, Field: fmt.Sprintf("events[%d].do", len(sc.Events)), Reason: "is missing"}
		}
		sc.Events = append(sc.Events, out)
	}
	return sc, r.err
}

func (y *yamlNAT) nat(r *yamlReader) NAT {
	var n NAT
	from := &y.NAT
	read(r, from.Mapping, &n.Mapping, parseName[Behavior])
	read(r, from.Filtering, &n.Filtering, parseName[Behavior])
	read(r, from.Allocation, &n.Allocation, parseName[Allocation])
	read(r, from.Delta, &n.Delta, parseCount)
	read(r, from.CrossTraffic, &n.CrossTraffic, parseRatio)
	read(r, from.FirstPort, &n.FirstPort, parsePort)
	read(r, from.LastPort, &n.LastPort, parsePort)
	read(r, from.Block, &n.Block, parseCount)
	read(r, from.Addresses, &n.Addresses, parseCount)
	read(r, from.Pooling, &n.Pooling, parseName[Pooling])
	read(r, from.Lifetime, &n.Lifetime, parseDuration)
	read(r, from.Unreplied, &n.Unreplied, parseDuration)
	read(r, from.InboundRefresh, &n.InboundRefresh, parseBool)
	read(r, from.NoOutboundRefresh, &n.NoOutboundRefresh, parseBool)
	read(r, from.Sessions, &n.Sessions, parseCount)
	read(r, from.EvictOldest, &n.EvictOldest, parseBool)
	read(r, from.Hairpinning, &n.Hairpinning, parseBool)
	read(r, from.HairpinInside, &n.HairpinInside, parseBool)
	if f := from.Firewall; f != nil {
		n.Firewall = new(Firewall)
		read(r, f.BlockUDP, &n.Firewall.BlockUDP, parseBool)
		for _, p := range f.Ports {
			var port uint16
			read(r, p, &port, parsePort)
			n.Firewall.Ports = append(n.Firewall.Ports, port)
		}
		read(r, f.PacketRate, &n.Firewall.PacketRate, parseCount)
		read(r, f.DropFirst, &n.Firewall.DropFirst, parseCount)
		read(r, f.DropSTUN, &n.Firewall.DropSTUN, parseBool)
	}
	return n
}

func (y *yamlLink) link(r *yamlReader) Link {
	var l Link
	read(r, y.Delay, &l.Delay, parseDuration)
	read(r, y.Jitter, &l.Jitter, parseDuration)
	read(r, y.Loss, &l.Loss, parseShare)
	if b := y.Burst; b != nil {
		l.Burst = new(GilbertElliott)
		read(r, b.GoodToBad, &l.Burst.GoodToBad, parseShare)
		read(r, b.BadToGood, &l.Burst.BadToGood, parseShare)
		read(r, b.LossGood, &l.Burst.LossGood, parseShare)
		read(r, b.LossBad, &l.Burst.LossBad, parseShare)
	}
	read(r, y.Rate, &l.Rate, parseRate)
	read(r, y.Queue, &l.Queue, parseBytes)
	read(r, y.Duplicate, &l.Duplicate, parseShare)
	read(r, y.Reorder, &l.Reorder, parseShare)
	read(r, y.MTU, &l.MTU, parseBytes)
	read(r, y.TooBig, &l.TooBig, parseBool)
	read(r, y.Cut, &l.Cut, parseBool)
	if y.Down != nil {
		down := y.Down.link(r)
		l.Down = &down
	}
	return l
}

func parseSeed(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number of up to 64 bits", s)
	}
	return v, nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 10ms or 2m", s)
	}
	return d, nil
}

func parseShare(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a share such as 0.01", s)
	}
	return v, nil
}

func parseBytes(s string) (int, error) {
	v, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of bytes", s)
	}
	return int(v), nil
}

func parseCount(s string) (int, error) {
	v, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return int(v), nil
}

func parseRatio(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number such as 2.5", s)
	}
	return v, nil
}

func parsePort(s string) (uint16, error) {
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(v), nil
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// parseRate reads bits per second: "20M" is 20 Mbit/s.
func parseRate(s string) (int64, error) {
	number, unit := s, int64(1)
	switch s[len(s)-1] {
	case 'k':
		unit = 1e3
	case 'M':
		unit = 1e6
	case 'G':
		unit = 1e9
	}
	if unit > 1 {
		number = s[:len(s)-1]
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v > maxRate/unit || v < -maxRate/unit {
		return 0, fmt.Errorf("%q is not a rate in bit/s such as 20M", s)
	}
	return v * unit, nil
}

func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 192.168.1.0/24", s)
	}
	return p, nil
}

// parseName reads what T's UnmarshalText reads.
func parseName[T any, P interface {
	*T
	UnmarshalText([]byte) error
}](s string) (T, error) {
	var v T
	err := P(&v).UnmarshalText([]byte(s))
	return v, err
}

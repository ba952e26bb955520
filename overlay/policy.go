package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/instantgrid/instantgrid/rendezvous/membership"
	"github.com/instantgrid/instantgrid/ri2n"
)

// A policy says which members may connect to which ports of this node. The zero
// value closes every port. It is immutable.
type policy struct {
	rules []rule
	stale stalePolicy
}

// stalePolicy is what happens while nobody has confirmed the revocation list.
type stalePolicy int

const (
	staleReport stalePolicy = iota // say so
	staleRefuse                    // and open no new sessions with members
)

// A rule opens ports to whom it names: everything that is given must fit.
type rule struct {
	roles membership.Roles // any of them; zero: not asked for
	names []string         // patterns of path.Match; empty: not asked for
	peers []ri2n.PeerID    // empty: not asked for
	ports []portRange
}

type portRange struct{ first, last uint16 }

// portPing stands for ICMP echo requests among ports.
const portPing = 0

// opens reports whether m may connect to port.
func (p *policy) opens(m *membership.Member, port uint16) bool {
	for i := range p.rules {
		if p.rules[i].fits(m) && p.rules[i].holds(port) {
			return true
		}
	}
	return false
}

func (r *rule) holds(port uint16) bool {
	for _, x := range r.ports {
		if port >= x.first && port <= x.last {
			return true
		}
	}
	return false
}

func (r *rule) fits(m *membership.Member) bool {
	if r.roles != 0 && r.roles&m.Roles == 0 {
		return false
	}
	if len(r.names) > 0 {
		found := false
		for _, pattern := range r.names {
			ok, err := path.Match(pattern, m.Name)
			found = found || ok && err == nil
		}
		if !found {
			return false
		}
	}
	if len(r.peers) > 0 {
		found := false
		for _, id := range r.peers {
			found = found || id == m.Peer
		}
		return found
	}
	return true
}

// A PolicyError is a place in a policy file that makes no sense.
type PolicyError struct {
	File         string
	Line, Column int    // from 1
	Field        string // "rules[0].ports"; empty: the file as a whole
	Problem      string
}

func (e *PolicyError) Error() string { return "overlay: " + e.Object() + ": " + e.Cause() }

// Object names the place.
func (e *PolicyError) Object() string {
	if e.Line == 0 {
		return e.File
	}
	return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
}

// Cause names the field and says what is wrong with it.
func (e *PolicyError) Cause() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

// Next says what to do.
func (e *PolicyError) Next() string {
	return "correct it; the policy before stays in force until then (an example: docs/membership.md)"
}

// policyFile is what a policy file holds.
type policyFile struct {
	Stale string     `yaml:"stale"`
	Rules []ruleFile `yaml:"rules"`
}

type ruleFile struct {
	Roles []string `yaml:"roles"`
	Names []string `yaml:"names"`
	Peers []string `yaml:"peers"`
	Ports []string `yaml:"ports"`
}

// maxRules bounds a policy.
const maxRules = 1024

// parsePolicy decodes a policy file. The error is a [*PolicyError].
func parsePolicy(file string, text []byte) (*policy, error) {
	var f policyFile
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		e := &PolicyError{File: file, Problem: err.Error()}
		var y yaml.Error
		if errors.As(err, &y) {
			e.Problem = y.GetMessage()
			if t := y.GetToken(); t != nil && t.Position != nil {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
		}
		return nil, e
	}
	bad := func(field, problem string) (*policy, error) {
		e := &PolicyError{File: file, Field: strings.TrimPrefix(field, "$."), Problem: problem}
		e.Line, e.Column = placeOf(text, field)
		return nil, e
	}
	p := &policy{}
	switch f.Stale {
	case "", "report":
	case "refuse":
		p.stale = staleRefuse
	default:
		return bad("$.stale", strconv.Quote(f.Stale)+" is neither report nor refuse")
	}
	if len(f.Rules) > maxRules {
		return bad("$.rules", fmt.Sprintf("%d rules, at most %d", len(f.Rules), maxRules))
	}
	for i, x := range f.Rules {
		at := fmt.Sprintf("$.rules[%d]", i)
		var r rule
		for j, word := range x.Roles {
			role, err := membership.ParseRoles(word)
			if err != nil {
				return bad(fmt.Sprintf("%s.roles[%d]", at, j), strconv.Quote(word)+" is none of "+strings.Join(membership.RoleNames(), ", "))
			}
			r.roles |= role
		}
		for j, name := range x.Names {
			if _, err := path.Match(name, ""); err != nil || name == "" {
				return bad(fmt.Sprintf("%s.names[%d]", at, j), strconv.Quote(name)+" is no name and no pattern such as build-*")
			}
			r.names = append(r.names, strings.ToLower(name))
		}
		for j, text := range x.Peers {
			id, err := ri2n.ParsePeerID(text)
			if err != nil {
				return bad(fmt.Sprintf("%s.peers[%d]", at, j), errNotPeerID.Error())
			}
			r.peers = append(r.peers, id)
		}
		if len(x.Roles)+len(x.Names)+len(x.Peers) == 0 {
			return bad(at, "it names nobody: give roles, names or peers; names: [\"*\"] stands for every member")
		}
		if len(x.Ports) == 0 {
			return bad(at, "it opens no port: give ports, such as [7000, \"8000-8010\"], or [all]")
		}
		for j, text := range x.Ports {
			ports, err := parsePorts(text)
			if err != nil {
				return bad(fmt.Sprintf("%s.ports[%d]", at, j), err.Error())
			}
			r.ports = append(r.ports, ports)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

func parsePorts(text string) (portRange, error) {
	switch text {
	case "all":
		return portRange{portPing, 65535}, nil
	case "ping":
		return portRange{portPing, portPing}, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	last, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if err1 != nil || err2 != nil || first == 0 || last < first {
		return portRange{}, fmt.Errorf("%q is neither a port from 1 to 65535, nor a range of them such as 8000-8010, nor ping, nor all", text)
	}
	return portRange{uint16(first), uint16(last)}, nil
}

// placeOf finds where a field stands; zero if it cannot be found.
func placeOf(text []byte, field string) (line, column int) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return 0, 0
	}
	at, err := yaml.PathString(field)
	if err != nil {
		return 0, 0
	}
	node, err := at.FilterFile(file)
	if err != nil || node == nil {
		return 0, 0
	}
	t := node.GetToken()
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
		t = m.Values[0].Key.GetToken()
	}
	if t == nil || t.Position == nil {
		return 0, 0
	}
	return t.Position.Line, t.Position.Column
}

// A policyKeeper holds the policy in force, and looks at its file.
type policyKeeper struct {
	file string // empty: none
	last policyStamp
}

type policyStamp struct {
	modified time.Time
	size     int64
}

// look reads the file if it has changed. It returns nil, nil if it has not. A
// file that is not there closes every port.
func (k *policyKeeper) look() (*policy, error) {
	if k.file == "" {
		return nil, nil
	}
	var stamp policyStamp
	info, err := os.Stat(k.file)
	switch {
	case err == nil:
		stamp = policyStamp{info.ModTime(), info.Size()}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, &StateError{File: k.file, Err: err}
	}
	if stamp == k.last {
		return nil, nil
	}
	k.last = stamp
	if stamp == (policyStamp{}) {
		return &policy{}, nil
	}
	if !info.Mode().IsRegular() {
		return nil, &StateError{File: k.file, Err: errNotFile}
	}
	if stamp.size > maxStateFile {
		return nil, &PolicyError{File: k.file, Problem: fmt.Sprintf("it has %d bytes, more than any policy", stamp.size)}
	}
	b, err := os.ReadFile(k.file)
	if err != nil {
		return nil, &StateError{File: k.file, Err: err}
	}
	return parsePolicy(k.file, b)
}

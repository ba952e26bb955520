package ri2n

import (
	"fmt"
	"strconv"
	"strings"
)

// A Policy says which of a session's paths carry what one end sends. The two
// ends need not agree. Paths through a relay, and paths that share the local
// and the remote interface with a better one, are for the time in which there
// is no other, whatever the policy.
//
// The zero value is [PolicyAggregate].
type Policy int

const (
	// PolicyAggregate uses all paths together for bandwidth: each burst leaves
	// on the path where it completes first. What is little enough to fit
	// 64 KiB stays on one.
	PolicyAggregate Policy = iota

	// PolicyBackup uses the best path alone; the others carry keepalives until
	// it fails.
	PolicyBackup

	// PolicyLatency uses the path with the least round-trip time that has
	// room, and sends datagrams, and the end of what a stream has to send, on
	// a second one too.
	PolicyLatency

	policyRedundant // plus the number of copies less two
)

// maxCopies is the largest number of paths that carry the same data.
const maxCopies = maxPaths

// policyInherit has a stream follow its session.
const policyInherit Policy = -1

// PolicyRedundant sends everything on the k best paths, from 2 to 8; other
// values are taken as the nearest of these. A path sends what another has
// sent before only while that is not acknowledged, so the slowest of the
// paths does not hold up the others.
func PolicyRedundant(k int) Policy { return policyRedundant + Policy(min(max(k, 2), maxCopies)-2) }

// copies is how many paths carry the same data, tails aside.
func (p Policy) copies() int {
	if p >= policyRedundant {
		return min(int(p-policyRedundant)+2, maxCopies)
	}
	return 1
}

// valid reports whether p is one of the policies.
func (p Policy) valid() bool { return p >= PolicyAggregate && p <= PolicyRedundant(maxCopies) }

// String returns "aggregate", "backup", "latency" or "redundant(2)".
func (p Policy) String() string {
	switch {
	case p == PolicyAggregate:
		return "aggregate"
	case p == PolicyBackup:
		return "backup"
	case p == PolicyLatency:
		return "latency"
	case p.valid():
		return "redundant(" + strconv.Itoa(p.copies()) + ")"
	}
	return "unknown"
}

// MarshalText implements [encoding.TextMarshaler].
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Policy) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePolicy(string(text))
	return err
}

// ParsePolicy is the inverse of String. "redundant" alone is redundant(2).
func ParsePolicy(name string) (Policy, error) {
	switch name {
	case "aggregate":
		return PolicyAggregate, nil
	case "backup":
		return PolicyBackup, nil
	case "latency":
		return PolicyLatency, nil
	case "redundant":
		return PolicyRedundant(2), nil
	}
	if inner, ok := strings.CutPrefix(name, "redundant("); ok {
		if k, err := strconv.Atoi(strings.TrimSuffix(inner, ")")); err == nil && PolicyRedundant(k).String() == name {
			return PolicyRedundant(k), nil
		}
	}
	return 0, fmt.Errorf("ri2n: policy %q is none of aggregate, backup, latency, redundant(2) to redundant(%d)", name, maxCopies)
}

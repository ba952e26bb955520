package discovery

import (
	"fmt"
	"strings"
)

// A State is what a node does now. Each has a DNS-SD service type, as in
// BonjourGrid.
type State uint8

// The states there are.
const (
	Idle        State = iota // has nothing to do
	Worker                   // computes for a coordinator
	Coordinator              // has others compute
	states
)

var stateNames = [states]string{"idle", "worker", "coordinator"}

// String returns "idle", "worker" or "coordinator".
func (s State) String() string {
	if s < states {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Valid reports whether s is one of the states there are.
func (s State) Valid() bool { return s < states }

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *State) UnmarshalText(b []byte) error {
	for i, name := range stateNames {
		if name == string(b) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("discovery: state %q is none of %s", b, strings.Join(stateNames[:], ", "))
}

// service is the DNS-SD service type of a state, with its domain.
func (s State) service() string { return "_grid-" + stateNames[s] + "._udp.local." }

// stateOf splits the name of a service instance. Only lower-case letters, digits
// and hyphens are in the names that nodes announce.
func stateOf(instance string) (label string, s State, ok bool) {
	instance = strings.ToLower(instance)
	for s := range states {
		if label, found := strings.CutSuffix(instance, "."+s.service()); found {
			return label, s, isLabel(label)
		}
	}
	return "", 0, false
}

func isLabel(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

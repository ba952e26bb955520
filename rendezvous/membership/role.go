package membership

import (
	"fmt"
	"strings"
)

// Roles are what a member is for, as a set. Policies name them; only Admin means
// something to the ledger.
type Roles uint8

// The roles there are.
const (
	Worker    Roles = 1 << iota // runs other members' jobs
	Submitter                   // submits jobs
	Relay                       // relays datagrams for others
	Admin                       // may publish what the grid key has signed

	allRoles = Worker | Submitter | Relay | Admin
)

var roleNames = []struct {
	role Roles
	name string
}{{Worker, "worker"}, {Submitter, "submitter"}, {Relay, "relay"}, {Admin, "admin"}}

// RoleNames are the words that [ParseRoles] knows.
func RoleNames() []string {
	list := make([]string, len(roleNames))
	for i, r := range roleNames {
		list[i] = r.name
	}
	return list
}

// String returns the names of the roles, joined by a plus.
func (r Roles) String() string { return strings.Join(r.Names(), "+") }

// Names returns the roles one by one.
func (r Roles) Names() []string {
	list := []string{}
	for _, x := range roleNames {
		if r&x.role != 0 {
			list = append(list, x.name)
		}
	}
	return list
}

// Has reports whether r holds every role of other.
func (r Roles) Has(other Roles) bool { return r&other == other }

// Valid reports whether r holds at least one role, and none that is unknown.
func (r Roles) Valid() bool { return r != 0 && r&^allRoles == 0 }

// ParseRoles decodes names joined by a plus or a comma.
func ParseRoles(s string) (Roles, error) {
	var r Roles
	for word := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == '+' || c == ',' }) {
		found := false
		for _, x := range roleNames {
			if x.name == word {
				r |= x.role
				found = true
			}
		}
		if !found {
			return 0, fmt.Errorf("membership: role %q is none of %s", word, strings.Join(RoleNames(), ", "))
		}
	}
	if r == 0 {
		return 0, fmt.Errorf("membership: no role is named; there are %s", strings.Join(RoleNames(), ", "))
	}
	return r, nil
}

// MarshalText implements [encoding.TextMarshaler].
func (r Roles) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *Roles) UnmarshalText(b []byte) error {
	roles, err := ParseRoles(string(b))
	if err != nil {
		return err
	}
	*r = roles
	return nil
}

package ri2n

import "testing"

func TestPolicyNames(t *testing.T) {
	for _, tt := range []struct {
		policy Policy
		name   string
		copies int
	}{
		{PolicyAggregate, "aggregate", 1},
		{PolicyBackup, "backup", 1},
		{PolicyLatency, "latency", 1},
		{PolicyRedundant(-1), "redundant(2)", 2},
		{PolicyRedundant(3), "redundant(3)", 3},
		{PolicyRedundant(99), "redundant(8)", 8},
	} {
		if got := tt.policy.String(); got != tt.name {
			t.Errorf("name = %q, want %q", got, tt.name)
		}
		if got := tt.policy.copies(); got != tt.copies {
			t.Errorf("%s: copies = %d, want %d", tt.name, got, tt.copies)
		}
		var p Policy
		if err := p.UnmarshalText([]byte(tt.name)); err != nil || p != tt.policy || !p.valid() {
			t.Errorf("%s: parsed as %v, %v", tt.name, p, err)
		}
	}
	for _, name := range []string{"", "redundant(1)", "redundant(9)", "redundant(2", "fast"} {
		if p, err := ParsePolicy(name); err == nil {
			t.Errorf("%q is parsed as %v", name, p)
		}
	}
	for _, p := range []Policy{-1, policyRedundant + 7, 1 << 20} {
		if p.valid() || p.String() != "unknown" {
			t.Errorf("policy %d is %v", int(p), p)
		}
	}
}

package metrics

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/instantgrid/instantgrid/ri2n"
)

// numbers gives every integer below v, however deep, a value of its own.
func number(v reflect.Value, next *uint64, path string, names map[float64]string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Stalls" {
				number(v.Field(i), next, path+"."+name, names)
			}
		}
	case reflect.Uint64:
		*next++
		v.SetUint(*next)
		names[float64(*next)] = path
	case reflect.Int, reflect.Int64:
		*next++
		v.SetInt(int64(*next))
		names[float64(*next)] = path
	}
}

// TestEveryCounterIsShown: a counter that is added to ri2n.Stats is to be shown
// to operators as well, once.
func TestEveryCounterIsShown(t *testing.T) {
	var s ri2n.Stats
	names := make(map[float64]string)
	number(reflect.ValueOf(&s).Elem(), new(uint64), "Stats", names)
	s.Stalls.Counts = [len(s.Stalls.Counts)]uint64{1, 2, 3}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(func() ri2n.Stats { return s }))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.Contains(string(document), "`"+f.GetName()+"`") {
			t.Errorf("docs/metrics.md does not list %s", f.GetName())
		}
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				if h.GetSampleCount() != 6 || h.GetBucket()[2].GetCumulativeCount() != 6 {
					t.Errorf("stalls = %v", h)
				}
				continue
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if names[v] == "" {
				t.Errorf("%s shows %v, which is no counter or one that is shown already", f.GetName(), v)
			}
			delete(names, v)
			for _, l := range m.GetLabel() {
				if !strings.Contains(string(document), "`"+l.GetValue()+"`") {
					t.Errorf("docs/metrics.md does not list the reason %q of %s", l.GetValue(), f.GetName())
				}
			}
		}
	}
	for _, name := range names {
		t.Errorf("%s is not shown", name)
	}
}

package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// sample holds a key of each kind.
type sample struct {
	name  string
	on    bool
	count int
	port  uint16
	wait  time.Duration
	list  []string
}

func (s *sample) sections() []Section {
	return []Section{
		{
			Name: "first", Doc: "The first.",
			Keys: []Key{
				{Name: "name", Value: &s.name, Doc: "A word.", OneOf: []string{"", "alpha", "beta"}, Flag: "name", Usage: "a `word`", Live: true},
				{Name: "on", Value: &s.on, Doc: "Whether.", Flag: "on", Usage: "switch"},
				{Name: "count", Value: &s.count, Doc: "How many.", Live: true, Check: func() error {
					if s.count < 0 {
						return errors.New("it is negative")
					}
					return nil
				}},
			},
			Check: func() error {
				if s.on && s.count > 100 {
					return &KeyError{"on", errors.New("there are too many for that")}
				}
				return nil
			},
		},
		{Name: "second", Doc: "The second.", Keys: []Key{
			{Name: "port_number", Value: &s.port, Doc: "A port | or two."},
			{Name: "wait", Value: &s.wait, Doc: "How long."},
			{Name: "list", Value: &s.list, Doc: "Several.", Flag: "list", Usage: "`words`"},
		}},
	}
}

func TestParse(t *testing.T) {
	s := sample{count: 7, wait: time.Second}
	text := "# of ours\nfirst:\n  name: beta\n  on: true\nsecond:\n  port_number: 4000\n  wait: 1m30s\n  list: [a, \"b c\", 3]\n"
	if err := Parse("f", []byte(text), s.sections()); err != nil {
		t.Fatal(err)
	}
	if want := (sample{"beta", true, 7, 4000, 90 * time.Second, []string{"a", "b c", "3"}}); !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "first:\n", "first:\n  name:\n", "first: {}\n", "first: {count: 3}\n"} {
		var s sample
		if err := Parse("f", []byte(text), s.sections()); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"firts:\n  name: alpha\n", "f:1:1: firts: there is no such section; did you mean first?"},
		{"wait: 3s\n", "f:1:1: wait: there is no such section; did you mean second.wait?"},
		{"xyzzy: 3\n", "f:1:1: xyzzy: there is no such section"},
		{"second:\n  port-number: 1\n", "f:2:3: second.port-number: there is no such key; did you mean second.port_number?"},
		{"first:\n  name: gamma\n", "f:2:3: first.name: \"gamma\" is none of , alpha, beta"},
		{"first:\n  name: aplha\n", "f:2:3: first.name: \"aplha\" is none of , alpha, beta; did you mean alpha?"},
		{"first:\n  name: [alpha]\n", "f:2:9: first.name: this is not a text"},
		{"first:\n  on: 1\n", "f:2:7: first.on: this is not a true or false"},
		{"first:\n  count: 1.5\n", "f:2:10: first.count: this is not a number"},
		{"first:\n  count: -1\n", "f:2:3: first.count: it is negative"},
		{"first:\n  count: 101\n  on: true\n", "f:3:3: first.on: there are too many for that"},
		{"second:\n  port_number: 65536\n", "f:2:16: second.port_number: this is not a number from 0 to 65535"},
		{"second:\n  wait: 3\n", "f:2:9: second.wait: this is not a duration, such as 10s"},
		{"second:\n  list: a\n", "f:2:9: second.list: this is not a list of texts"},
		{"second:\n  list: [{a: b}]\n", "second.list: this is not a text"},
		{"first: 3\n", "f:1:8: first: this is not a mapping of keys to values"},
		{"[]\n", "f:1:1: this is not a mapping of keys to values"},
		{"first: {}\n---\nfirst: {}\n", "a second document"},
		{"first: &a {}\nsecond: *a\n", "f:1:8: first: this is not a mapping"},
		{"first:\n  <<: {}\n", "merges are not known here"},
		{"first: {}\nfirst: {}\n", "f:2:"},
		{"\t\x00", "f"},
		{strings.Repeat("#", MaxSize+1), "more than any configuration"},
	} {
		var s sample
		err := Parse("f", []byte(tt.text), s.sections())
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Object()+": "+e.Cause(), tt.want) || e.Next() == "" {
			t.Errorf("%.60q: %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestFlagsComeFirst(t *testing.T) {
	given, s := sample{count: 1}, sample{name: "alpha", count: 2}
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	Flags(flags, given.sections())
	if err := flags.Parse([]string{"--name", "beta", "--list", "a,b"}); err != nil {
		t.Fatal(err)
	}
	Override(flags, s.sections(), given.sections())
	if want := (sample{name: "beta", count: 2, list: []string{"a", "b"}}); !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
	if err := Check(s.sections()); err != nil {
		t.Error(err)
	}
	s.name = "bet"
	var e *Error
	if err := Check(s.sections()); !errors.As(err, &e) || e.Object() != "--name" || e.Nearest != "beta" {
		t.Errorf("a wrong flag: %v", err)
	}
}

func TestReload(t *testing.T) {
	running := sample{name: "alpha", count: 1, port: 1}
	fresh := sample{name: "beta", count: 1, port: 2, list: []string{"x"}}
	changed, restart := Reload(running.sections(), fresh.sections())
	if got, want := fmt.Sprint(changed, restart), "map[first:[first.name]] [second.port_number second.list]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if running.name != "beta" || running.port != 1 || running.list != nil {
		t.Errorf("running has %+v", running)
	}
	Copy(running.sections(), fresh.sections())
	if !reflect.DeepEqual(running, fresh) {
		t.Errorf("after Copy %+v", running)
	}
}

// What Example writes is read again as it was.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "first:\n  name: beta\n", "second: {list: [a, b], wait: 1s}", "first:\n  count: 1e3\n", "a: &b\n  *b : c\n", "? [x]\n: y\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		if err := Parse("f", b, s.sections()); err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Problem == "" {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		var again sample
		if err := Parse("f", []byte(Example("", s.sections())), again.sections()); err != nil {
			t.Fatalf("%q is %+v, which cannot be read again: %v", b, s, err)
		}
		if got, want := Values(again.sections()), Values(s.sections()); !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %v, and read again %v", b, want, got)
		}
	})
}

func TestShown(t *testing.T) {
	s := sample{name: "alpha"}
	text := Example("A head.", s.sections())
	for _, want := range []string{"# A head.\n", "\n# The first.\nfirst:\n", "  # A word. One of , alpha, beta. (A reload applies it.)\n  name: \"alpha\"\n", "  list: []\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the example lacks %q:\n%s", want, text)
		}
	}
	if tables := Tables(s.sections()); !strings.Contains(tables, "| `port_number` | `0` |  | restart | A port \\| or two. |\n") {
		t.Errorf("tables:\n%s", tables)
	}
}

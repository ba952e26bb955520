package instantgrid_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents returns every Markdown file of the repository by its slash path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := make(map[string]string)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, ".md") {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			docs[filepath.ToSlash(name)] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if docs["README.md"] == "" {
		t.Fatal("there is no README.md here: the test looks in the wrong place")
	}
	return docs
}

// markdownLink matches the target of [text](target).
var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// mentioned matches a document named in the text rather than linked.
var mentioned = regexp.MustCompile("`(docs/[a-z0-9/-]+\\.md)`")

func TestLinksResolve(t *testing.T) {
	for name, text := range documents(t) {
		for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.FromSlash(path.Join(path.Dir(name), target))); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
		for _, m := range mentioned.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.FromSlash(m[1])); err != nil {
				t.Errorf("%s mentions %s: %v", name, m[1], err)
			}
		}
	}
}

// shellBlock matches a block of commands.
var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// shellLines returns the first two words of each command in text.
func shellLines(text string) (commands [][2]string) {
	for _, m := range shellBlock.FindAllStringSubmatch(text, -1) {
		for l := range strings.Lines(m[1]) {
			words := strings.Fields(l)
			if len(words) == 0 || strings.HasPrefix(words[0], "#") {
				continue
			}
			words = append(words, "")
			commands = append(commands, [2]string{words[0], words[1]})
		}
	}
	return commands
}

// TestCommandsExist: each command of a shell block is a target of make or a
// program of this repository.
func TestCommandsExist(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	programs := []string{"rendezvous", "grid", "ri2n-bench", "netsim"}
	for name, text := range documents(t) {
		for _, c := range shellLines(text) {
			switch program := strings.TrimPrefix(c[0], "bin/"); {
			case c[0] == "make":
				if !strings.Contains("\n"+string(makefile), "\n"+c[1]+":") {
					t.Errorf("%s: the Makefile has no target %q", name, c[1])
				}
			case slices.Contains(programs, program):
			default:
				t.Errorf("%s: nobody knows the command %s %s", name, c[0], c[1])
			}
		}
	}
}

// TestTwoSetUpCommands: a newcomer types two commands and no more.
func TestTwoSetUpCommands(t *testing.T) {
	_, section, found := strings.Cut(documents(t)["README.md"], "\n## Set up\n")
	if !found {
		t.Fatal("README.md has no section Set up")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	got := shellLines(section)
	if want := [][2]string{{"make", "demo"}, {"make", "test"}}; !slices.Equal(got, want) {
		t.Errorf("set-up commands = %v, want %v", got, want)
	}
}

// decisionHeadings are the parts of a decision record, in order.
var decisionHeadings = []string{"Status: ", "## Context", "## Decision", "## Consequences", "## Alternatives"}

func TestDecisionsHaveTheirParts(t *testing.T) {
	docs := documents(t)
	index := docs["docs/decisions/README.md"]
	for name, text := range docs {
		if path.Dir(name) != "docs/decisions" || path.Base(name) == "README.md" {
			continue
		}
		number := path.Base(name)[:4]
		if !strings.HasPrefix(text, "# "+number+" ") {
			t.Errorf("%s does not begin with its number", name)
		}
		if !strings.Contains(index, "["+number+"]("+path.Base(name)+")") {
			t.Errorf("docs/decisions/README.md does not list %s", name)
		}
		rest := text
		for _, h := range decisionHeadings {
			_, after, ok := strings.Cut(rest, "\n"+h)
			if !ok {
				t.Errorf("%s: %q is missing or out of order", name, h)
				break
			}
			rest = after
		}
	}
}

func TestNothingSetAsideInText(t *testing.T) {
	words := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	for name, text := range documents(t) {
		if m := words.FindString(text); m != "" {
			t.Errorf("%s holds %q: planned work is not kept in documents", name, m)
		}
	}
}

// requirement matches a module that go.mod requires directly.
var requirement = regexp.MustCompile(`(?m)^(?:require )?\s*([a-z0-9.]+\.[a-z]+/\S+) v\S+$`)

// majorSuffix is the /v8 of a module path.
var majorSuffix = regexp.MustCompile(`/v\d+$`)

// TestDependenciesHaveReasons: decision 0007 names every direct dependency.
func TestDependenciesHaveReasons(t *testing.T) {
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	record := documents(t)["docs/decisions/0007-dependencies.md"]
	for _, m := range requirement.FindAllStringSubmatch(string(gomod), -1) {
		name := majorSuffix.ReplaceAllString(m[1], "")
		name = strings.TrimPrefix(name, "github.com/")
		if rest, ok := strings.CutPrefix(name, "golang.org/x/"); ok {
			name = rest // the record lists these together
		}
		if !strings.Contains(record, name) {
			t.Errorf("go.mod requires %s, and docs/decisions/0007-dependencies.md gives no reason for it", m[1])
		}
	}
}

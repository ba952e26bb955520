package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

// Parse sets what a file says; file is its name, for errors. On an error, which
// is an *Error, some keys may be set already.
func Parse(file string, content []byte, sections []Section) error {
	p := parsing{file: file, at: make(map[string]*token.Position)}
	if len(content) > MaxSize {
		return p.fail(nil, "", fmt.Sprintf("it has %d bytes, more than any configuration", len(content)))
	}
	tree, err := parser.ParseBytes(content, 0)
	if err != nil {
		return p.syntax(err)
	}
	for i, doc := range tree.Docs {
		if i > 0 {
			return p.fail(doc.Start, "", "a second document; there is one")
		}
		if err := p.sections(doc.Body, sections); err != nil {
			return err
		}
	}
	for i := range sections {
		if field, err := sections[i].check(); err != nil {
			return p.value(field, err)
		}
	}
	return nil
}

// Check is what Parse does last: it asks whether the values make sense, after
// flags have changed some. An error names the flag.
func Check(sections []Section) error {
	for i := range sections {
		field, err := sections[i].check()
		if err == nil {
			continue
		}
		p := parsing{file: field}
		for _, k := range sections[i].Keys {
			if k.Flag != "" && sections[i].Name+"."+k.Name == field {
				p.file = "--" + k.Flag
			}
		}
		return p.value(field, err)
	}
	return nil
}

type parsing struct {
	file string
	at   map[string]*token.Position // where each field is
}

func (p *parsing) fail(t *token.Token, field, problem string) *Error {
	e := &Error{File: p.file, Field: field, Problem: problem}
	if t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	return e
}

// value places the error of a check.
func (p *parsing) value(field string, err error) *Error {
	e := &Error{File: p.file, Field: field, Problem: err.Error()}
	var v *valueError
	if errors.As(err, &v) {
		e.Nearest = v.nearest
	}
	at := p.at[field]
	if at == nil {
		section, _, _ := strings.Cut(field, ".")
		at = p.at[section]
	}
	if at != nil {
		e.Line, e.Column = at.Line, at.Column
	}
	return e
}

// syntax shortens an error of the YAML parser to its message and place.
func (p *parsing) syntax(err error) *Error {
	var y yaml.Error
	if errors.As(err, &y) {
		return p.fail(y.GetToken(), "", y.GetMessage())
	}
	problem, _, _ := strings.Cut(err.Error(), "\n")
	return p.fail(nil, "", problem)
}

// sections reads the top of the file.
func (p *parsing) sections(body ast.Node, sections []Section) error {
	names := make([]string, len(sections))
	for i := range sections {
		names[i] = sections[i].Name
	}
	return p.mapping("", body, func(name string, key, value ast.Node) error {
		for i := range sections {
			if sections[i].Name == name {
				return p.keys(&sections[i], value)
			}
		}
		e := p.fail(key.GetToken(), name, "there is no such section")
		if e.Nearest = nearest(name, names); e.Nearest == "" {
			e.Nearest = homeOf(name, sections)
		}
		return e
	})
}

// keys reads what is below a section's name.
func (p *parsing) keys(s *Section, value ast.Node) error {
	names := make([]string, len(s.Keys))
	for i := range s.Keys {
		names[i] = s.Keys[i].Name
	}
	return p.mapping(s.Name, value, func(name string, key, value ast.Node) error {
		for i := range s.Keys {
			if s.Keys[i].Name == name {
				return p.scalar(s.Name+"."+name, s.Keys[i].Value, value)
			}
		}
		e := p.fail(key.GetToken(), s.Name+"."+name, "there is no such key")
		if near := nearest(name, names); near != "" {
			e.Nearest = s.Name + "." + near
		}
		return e
	})
}

// mapping calls f for each pair of a mapping. What is empty has none.
func (p *parsing) mapping(field string, node ast.Node, f func(name string, key, value ast.Node) error) error {
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		return p.fail(node.GetToken(), field, "this is not a mapping of keys to values")
	}
	for _, pair := range pairs {
		if pair.Key.IsMergeKey() {
			return p.fail(pair.Key.GetToken(), field, "merges are not known here")
		}
		t := pair.Key.GetToken()
		name, path := t.Value, t.Value
		if field != "" {
			path = field + "." + name
		}
		if p.at[path] != nil {
			return p.fail(t, path, "it is given twice")
		}
		p.at[path] = t.Position
		if err := f(name, pair.Key, pair.Value); err != nil {
			return err
		}
	}
	return nil
}

// scalar reads one value. Null leaves the default.
func (p *parsing) scalar(field string, to any, node ast.Node) error {
	t := node.GetToken()
	if _, null := node.(*ast.NullNode); null {
		return nil
	}
	wrong := func() error { return p.fail(t, field, "this is not a "+kind(to)) }
	if list, ok := to.(*[]string); ok {
		seq, ok := node.(*ast.SequenceNode)
		if !ok {
			return wrong()
		}
		*list = []string{}
		for _, element := range seq.Values {
			s, ok := scalarText(element)
			if !ok {
				return p.fail(element.GetToken(), field, "this is not a text")
			}
			*list = append(*list, s)
		}
		return nil
	}
	s, ok := scalarText(node)
	if !ok {
		return wrong()
	}
	switch to := to.(type) {
	case *string:
		*to = s
	case *bool:
		b, ok := node.(*ast.BoolNode)
		if !ok {
			return wrong()
		}
		*to = b.Value
	case *int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return wrong()
		}
		*to = n
	case *uint16:
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return p.fail(t, field, "this is not a number from 0 to 65535")
		}
		*to = uint16(n)
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return wrong()
		}
		*to = d
	}
	return nil
}

// scalarText returns the text of a scalar.
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// homeOf returns the field with that name in some section, for a key that was
// written without one.
func homeOf(name string, sections []Section) string {
	for i := range sections {
		for j := range sections[i].Keys {
			if sections[i].Keys[j].Name == name {
				return sections[i].Name + "." + name
			}
		}
	}
	return ""
}

// nearest returns the candidate with the fewest changed letters, or nothing
// where more than a third of them would change.
func nearest(word string, candidates []string) (best string) {
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	least := len(word)/3 + 2
	for _, c := range candidates {
		if d := distance(word, c, least); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b, or limit if it is not less.
func distance(a, b string, limit int) int {
	if len(a) > 64 || len(b) > 64 {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}

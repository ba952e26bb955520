// Package config reads the configuration file of the agent: sections of keys,
// each with its default, its text and what a reload means for it, declared in
// one place.
//
//	s := Section{Name: "log", Doc: "What is logged.", Keys: []Key{
//		{Name: "level", Value: &level, Doc: "The least that is logged.", OneOf: levels, Live: true},
//	}}
//	err := Parse("config.yaml", content, []Section{s})
//
// A Value points to a variable that holds the default until a file or a flag
// says otherwise. From the same declarations come the flags ([Flags]), the
// commented example ([Example]), the tables of the documentation ([Tables]) and
// what a reload changes ([Reload]).
//
// The file is YAML. It is strict: what it does not know, or knows twice, is an
// [Error] with file, line, column, field and the nearest key. Anchors, aliases
// and merges are refused.
package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Section is one key at the top of the file, with those below it.
type Section struct {
	Name string
	Doc  string // what it is about; a sentence or more
	Keys []Key

	// Check, where it is not nil, looks at the values together, once all are
	// read. It returns a *KeyError to name one of the keys.
	Check func() error
}

// A Key is one setting.
type Key struct {
	Name string // lower case, words joined by _

	// Value points to the setting, and to its default at first: *string,
	// *bool, *int, *uint16, *time.Duration or *[]string.
	Value any

	Doc   string   // a sentence or more; units where there are any
	OneOf []string // the only values; nil: all that Check allows

	Flag  string // the flag that overrides it; empty: none
	Usage string // the flag's text, with the name of its value in back quotes

	// Live keys take effect with a reload; others with a restart.
	Live bool

	// Check, where it is not nil, says what is wrong with the value.
	Check func() error
}

// A KeyError is what a Section's Check finds wrong with a key of it.
type KeyError struct {
	Key string
	Err error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// An Error is a place in a configuration that makes no sense.
type Error struct {
	File         string // or the flag
	Line, Column int    // from 1; zero: the file as a whole
	Field        string // "log.level"; empty: none in particular
	Problem      string
	Nearest      string // the field that was perhaps meant; empty: none
}

func (e *Error) Error() string { return "config: " + e.Object() + ": " + e.Cause() }

// Object names the place.
func (e *Error) Object() string {
	if e.Line == 0 {
		return e.File
	}
	return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
}

// Cause names the field, says what is wrong with it, and what was perhaps
// meant.
func (e *Error) Cause() string {
	text := e.Problem
	if e.Field != "" {
		text = e.Field + ": " + text
	}
	if e.Nearest != "" {
		text += "; did you mean " + e.Nearest + "?"
	}
	return text
}

// Next says what to do.
func (e *Error) Next() string {
	if e.Line == 0 && strings.HasPrefix(e.File, "--") {
		return "grid up --help"
	}
	return "correct it, then: grid up --check; all keys: grid config example"
}

// check asks the keys and then the section whether the values make sense. It
// returns the first error, with the field that it is about.
func (s *Section) check() (field string, err error) {
	for i := range s.Keys {
		k := &s.Keys[i]
		if err := k.check(); err != nil {
			return s.Name + "." + k.Name, err
		}
	}
	if s.Check == nil {
		return "", nil
	}
	err = s.Check()
	if k, ok := err.(*KeyError); ok {
		return s.Name + "." + k.Key, k.Err
	}
	return s.Name, err
}

func (k *Key) check() error {
	if text, ok := k.Value.(*string); ok && k.OneOf != nil && !slices.Contains(k.OneOf, *text) {
		return &valueError{fmt.Sprintf("%q is none of %s", *text, strings.Join(k.OneOf, ", ")), nearest(*text, k.OneOf)}
	}
	if k.Check != nil {
		return k.Check()
	}
	return nil
}

// A valueError is a value with one nearby that would do.
type valueError struct{ problem, nearest string }

func (e *valueError) Error() string { return e.problem }

// set gives a key the value of another of the same kind.
func set(to, from any) {
	switch to := to.(type) {
	case *string:
		*to = *from.(*string)
	case *bool:
		*to = *from.(*bool)
	case *int:
		*to = *from.(*int)
	case *uint16:
		*to = *from.(*uint16)
	case *time.Duration:
		*to = *from.(*time.Duration)
	case *[]string:
		*to = slices.Clone(*from.(*[]string))
	default:
		panic(fmt.Sprintf("config: no key has the type %T", to))
	}
}

// text encodes a value for a file and for comparison.
func text(value any) string {
	switch v := value.(type) {
	case *string:
		return strconv.Quote(*v)
	case *bool:
		return strconv.FormatBool(*v)
	case *int:
		return strconv.Itoa(*v)
	case *uint16:
		return strconv.Itoa(int(*v))
	case *time.Duration:
		return v.String()
	case *[]string:
		quoted := make([]string, len(*v))
		for i, s := range *v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	panic(fmt.Sprintf("config: no key has the type %T", value))
}

// kind names the type of a value for people.
func kind(value any) string {
	switch value.(type) {
	case *bool:
		return "true or false"
	case *int, *uint16:
		return "number"
	case *time.Duration:
		return "duration, such as 10s"
	case *[]string:
		return "list of texts"
	}
	return "text"
}

// Reload takes over from fresh what is live, and returns the fields that have
// changed: those that running has now, by section, and those that need a
// restart and stay as they are. Both must come from the same declarations.
func Reload(running, fresh []Section) (changed map[string][]string, restart []string) {
	changed = make(map[string][]string)
	for i := range running {
		s := &running[i]
		for j := range s.Keys {
			k, now := &s.Keys[j], fresh[i].Keys[j].Value
			if text(k.Value) == text(now) {
				continue
			}
			field := s.Name + "." + k.Name
			if !k.Live {
				restart = append(restart, field)
				continue
			}
			set(k.Value, now)
			changed[s.Name] = append(changed[s.Name], field)
		}
	}
	return changed, restart
}

// Copy gives the keys of to the values of from. Both must come from the same
// declarations.
func Copy(to, from []Section) {
	for i := range to {
		for j := range to[i].Keys {
			set(to[i].Keys[j].Value, from[i].Keys[j].Value)
		}
	}
}

// Values returns every field with its value as it would be written.
func Values(sections []Section) (fields [][2]string) {
	for i := range sections {
		for j := range sections[i].Keys {
			k := &sections[i].Keys[j]
			fields = append(fields, [2]string{sections[i].Name + "." + k.Name, text(k.Value)})
		}
	}
	return fields
}

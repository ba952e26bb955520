package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Example writes a file with every key and its present value, explained.
func Example(head string, sections []Section) string {
	var b strings.Builder
	comment(&b, "", head)
	for i := range sections {
		s := &sections[i]
		b.WriteByte('\n')
		comment(&b, "", s.Doc)
		b.WriteString(s.Name + ":\n")
		for j := range s.Keys {
			k := &s.Keys[j]
			comment(&b, "  ", k.explained())
			fmt.Fprintf(&b, "  %s: %s\n", k.Name, text(k.Value))
		}
	}
	return b.String()
}

// explained is the key's text with its values and what a reload does.
func (k *Key) explained() string {
	doc := k.Doc
	if k.OneOf != nil {
		doc += " One of " + strings.Join(k.OneOf, ", ") + "."
	}
	if k.Live {
		doc += " (A reload applies it.)"
	}
	return doc
}

// comment writes text as comment lines of at most 80 columns.
func comment(b *strings.Builder, indent, text string) {
	line := ""
	flush := func() {
		if line != "" {
			b.WriteString(indent + "#" + line + "\n")
		}
		line = ""
	}
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(indent)+len(line)+len(word)+2 > 80 {
			flush()
		}
		line += " " + word
	}
	flush()
}

// Tables writes the sections as Markdown.
func Tables(sections []Section) string {
	var b strings.Builder
	for i := range sections {
		s := &sections[i]
		fmt.Fprintf(&b, "### %s\n\n%s\n\n| key | default | flag | takes effect | meaning |\n|---|---|---|---|---|\n", s.Name, s.Doc)
		for j := range s.Keys {
			k := &s.Keys[j]
			flag, effect := "", "restart"
			if k.Flag != "" {
				flag = "`--" + k.Flag + "`"
			}
			if k.Live {
				effect = "reload"
			}
			doc := k.Doc
			if k.OneOf != nil {
				doc += " One of " + strings.Join(k.OneOf, ", ") + "."
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", k.Name, text(k.Value), flag, effect, strings.ReplaceAll(doc, "|", "\\|"))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Flags defines the flags of the keys that have one. They set the keys of these
// sections; [Override] carries what was given over to others.
func Flags(flags *pflag.FlagSet, sections []Section) {
	for i := range sections {
		for j := range sections[i].Keys {
			k := &sections[i].Keys[j]
			if k.Flag == "" {
				continue
			}
			switch v := k.Value.(type) {
			case *string:
				flags.StringVar(v, k.Flag, *v, k.Usage)
			case *bool:
				flags.BoolVar(v, k.Flag, *v, k.Usage)
			case *int:
				flags.IntVar(v, k.Flag, *v, k.Usage)
			case *uint16:
				flags.Uint16Var(v, k.Flag, *v, k.Usage)
			case *time.Duration:
				flags.DurationVar(v, k.Flag, *v, k.Usage)
			case *[]string:
				flags.StringSliceVar(v, k.Flag, *v, k.Usage)
			}
		}
	}
}

// Override gives the keys of to what flags have set in from. Both must come
// from the same declarations.
func Override(flags *pflag.FlagSet, to, from []Section) {
	for i := range to {
		for j := range to[i].Keys {
			k := &to[i].Keys[j]
			if k.Flag != "" && flags.Changed(k.Flag) {
				set(k.Value, from[i].Keys[j].Value)
			}
		}
	}
}

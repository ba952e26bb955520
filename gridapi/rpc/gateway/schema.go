package gateway

import (
	"strings"
)

// schemasOf turns a function's signature (rpc.FunctionInfo) into JSON schemas
// of argument and result. What it does not understand, which a worker of another
// version may send, is any value.
func schemasOf(signature string) (in, out object) {
	left, right, found := strings.Cut(signature, " -> ")
	if !found {
		return object{}, object{}
	}
	return schemaOf(left), schemaOf(right)
}

func schemaOf(text string) object {
	p := &typeParser{text: text}
	s := p.parse(0)
	if p.bad || p.text != "" {
		return object{}
	}
	return s
}

// maxNesting bounds how deep a type is followed.
const maxNesting = 32

// A typeParser reads one type of a signature.
type typeParser struct {
	text string
	bad  bool
}

func (p *typeParser) skip(prefix string) bool {
	rest, found := strings.CutPrefix(p.text, prefix)
	p.text = rest
	return found
}

// until returns what stands before the first of the characters.
func (p *typeParser) until(characters string) string {
	i := strings.IndexAny(p.text, characters)
	if i < 0 {
		i = len(p.text)
	}
	word := p.text[:i]
	p.text = p.text[i:]
	return word
}

func (p *typeParser) parse(depth int) object {
	if depth > maxNesting {
		p.bad = true
		return object{}
	}
	switch {
	case p.skip("[]uint8"):
		return object{"type": "string", "contentEncoding": "base64"}
	case p.skip("[]"):
		return object{"type": "array", "items": p.parse(depth + 1)}
	case p.skip("["):
		p.until("]")
		if !p.skip("]") {
			p.bad = true
		}
		return object{"type": "array", "items": p.parse(depth + 1)}
	case p.skip("map["):
		p.parse(depth + 1)
		if !p.skip("]") {
			p.bad = true
		}
		return object{"type": "object", "additionalProperties": p.parse(depth + 1)}
	case p.skip("{"):
		return p.structure(depth)
	}
	return basic(p.until(";}] "))
}

func (p *typeParser) structure(depth int) object {
	if p.skip("}") {
		return object{} // no exported field: it encodes itself
	}
	properties := object{}
	for !p.bad {
		name := p.until(" ")
		if name == "" || !p.skip(" ") {
			p.bad = true
			break
		}
		properties[name] = p.parse(depth + 1)
		if p.skip("}") {
			break
		}
		if !p.skip("; ") {
			p.bad = true
		}
	}
	return object{"type": "object", "properties": properties}
}

// basic is the schema of a type without parts.
func basic(name string) object {
	switch {
	case name == "bool":
		return object{"type": "boolean"}
	case name == "string":
		return object{"type": "string"}
	case strings.HasPrefix(name, "uint"):
		return object{"type": "integer", "minimum": 0}
	case strings.HasPrefix(name, "int") && name != "interface":
		return object{"type": "integer"}
	case strings.HasPrefix(name, "float"):
		return object{"type": "number"}
	}
	return object{} // an interface, or a type that contains itself
}

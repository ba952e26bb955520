package rpc

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// A Codec turns arguments and results into bytes. It is used concurrently.
type Codec interface {
	// Name stands in each call. Both sides know the codec by it.
	Name() string
	Marshal(v any) ([]byte, error)
	Unmarshal(b []byte, v any) error
}

// Binary is CBOR (RFC 8949): compact, and what calls use unless told otherwise.
var Binary Codec = newBinary()

// JSON is for callers in other languages, and for people who look at the wire.
var JSON Codec = jsonCodec{}

// codecByName returns a codec, nil if there is none of that name.
func codecByName(name string) Codec {
	switch name {
	case Binary.Name():
		return Binary
	case JSON.Name():
		return JSON
	}
	return nil
}

type jsonCodec struct{}

func (jsonCodec) Name() string                    { return "json" }
func (jsonCodec) Marshal(v any) ([]byte, error)   { return json.Marshal(v) }
func (jsonCodec) Unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }

type binaryCodec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newBinary() Codec {
	// Equal values have equal bytes: results are compared by them.
	enc, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic, Time: cbor.TimeRFC3339Nano}.EncMode()
	if err != nil {
		panic("rpc: the options of CBOR contradict each other: " + err.Error())
	}
	// The length of the bytes bounds what they can ask for.
	dec, err := cbor.DecOptions{MaxArrayElements: 1<<31 - 1, MaxMapPairs: 1<<31 - 1, MaxNestedLevels: 64}.DecMode()
	if err != nil {
		panic("rpc: the options of CBOR contradict each other: " + err.Error())
	}
	return binaryCodec{enc, dec}
}

func (binaryCodec) Name() string                      { return "cbor" }
func (c binaryCodec) Marshal(v any) ([]byte, error)   { return c.enc.Marshal(v) }
func (c binaryCodec) Unmarshal(b []byte, v any) error { return c.dec.Unmarshal(b, v) }

// maxSignature bounds the text of a signature, in bytes.
const maxSignature = 2048

// A typePair is the types of a function.
type typePair struct{ in, out reflect.Type }

// signature is signatureOf, which it calls once for each pair of types.
func signature[In, Out any](c *Client) string {
	key := typePair{reflect.TypeFor[In](), reflect.TypeFor[Out]()}
	if s, known := c.signatures.Load(key); known {
		return s.(string)
	}
	s := signatureOf[In, Out]()
	c.signatures.Store(key, s)
	return s
}

// signatureOf describes a function's types by their structure, so that both
// sides see before the call whether they mean the same.
func signatureOf[In, Out any]() string {
	s := describe(reflect.TypeFor[In](), nil) + " -> " + describe(reflect.TypeFor[Out](), nil)
	if len(s) > maxSignature {
		s = s[:maxSignature]
	}
	return s
}

func describe(t reflect.Type, within []reflect.Type) string {
	for _, w := range within {
		if w == t {
			return t.Name() // it contains itself
		}
	}
	within = append(within, t)
	switch t.Kind() {
	case reflect.Pointer:
		return describe(t.Elem(), within)
	case reflect.Slice:
		return "[]" + describe(t.Elem(), within)
	case reflect.Array:
		return fmt.Sprintf("[%d]%s", t.Len(), describe(t.Elem(), within))
	case reflect.Map:
		return "map[" + describe(t.Key(), within) + "]" + describe(t.Elem(), within)
	case reflect.Struct:
		var b strings.Builder
		b.WriteString("{")
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			if name == "" {
				name = f.Name
			}
			if b.Len() > 1 {
				b.WriteString("; ")
			}
			b.WriteString(name + " " + describe(f.Type, within))
		}
		return b.String() + "}"
	}
	return t.Kind().String()
}

package netsim

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A schemaNode is the part of a JSON schema that the test looks at.
type schemaNode struct {
	Ref        string                 `json:"$ref"`
	Defs       map[string]*schemaNode `json:"$defs"`
	Properties map[string]*schemaNode
	Items      *schemaNode
	Enum       []string
	Additional *bool `json:"additionalProperties"`
}

// TestSchema: the published schema has the keys that the parser takes, and the
// names that it knows.
func TestSchema(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("scenarios", "scenario.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var root schemaNode
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	seen := make(map[reflect.Type]bool)
	var check func(at string, n *schemaNode, typ reflect.Type)
	check = func(at string, n *schemaNode, typ reflect.Type) {
		if n == nil {
			t.Errorf("%s: not in the schema", at)
			return
		}
		if n.Ref != "" {
			n = root.Defs[strings.TrimPrefix(n.Ref, "#/$defs/")]
		}
		switch {
		case typ == reflect.TypeFor[yamlText]() || seen[typ]:
			return
		case typ.Kind() == reflect.Pointer:
			check(at, n, typ.Elem())
			return
		case typ.Kind() == reflect.Slice:
			check(at+"[]", n.Items, typ.Elem())
			return
		}
		seen[typ] = true
		var keys []string
		for i := range typ.NumField() {
			key := typ.Field(i).Tag.Get("yaml")
			keys = append(keys, key)
			check(at+"."+key, n.Properties[key], typ.Field(i).Type)
		}
		slices.Sort(keys)
		if got := slices.Sorted(maps.Keys(n.Properties)); !slices.Equal(got, keys) {
			t.Errorf("%s: the schema has %v, the parser %v", at, got, keys)
		}
		if n.Additional == nil || *n.Additional {
			t.Errorf("%s: the schema takes unknown keys", at)
		}
	}
	check("", &root, reflect.TypeFor[yamlScenario]())
	for _, tt := range []struct {
		of   *schemaNode
		want []string
	}{
		{root.Defs["nat"].Properties["mapping"], behaviorNames[:]},
		{root.Defs["nat"].Properties["allocation"], allocationNames[:]},
		{root.Defs["nat"].Properties["pooling"], poolingNames[:]},
		{root.Defs["event"].Properties["do"], actionNames[:]},
	} {
		if !slices.Equal(tt.of.Enum, tt.want) {
			t.Errorf("the schema knows %v, the parser %v", tt.of.Enum, tt.want)
		}
	}
}

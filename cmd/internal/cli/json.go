package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"
)

// A Number is a float64 that JSON can always carry: NaN and the infinities,
// which JSON lacks, become null.
type Number float64

// IsZero reports whether n is one of these, so that a field with the option
// omitzero is absent for what was not measured, and not for a measured zero.
func (n Number) IsZero() bool {
	f := float64(n)
	return math.IsNaN(f) || math.IsInf(f, 0)
}

// MarshalJSON implements [json.Marshaler].
func (n Number) MarshalJSON() ([]byte, error) {
	if n.IsZero() {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(n), 'f', -1, 64), nil
}

// AppendDocument extends b by v as one JSON document on one line, with
// "schema": "instantgrid/NAME/1" as its first field. v must encode to a JSON
// object without a schema of its own.
func AppendDocument(b []byte, name string, v any) ([]byte, error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return b, fmt.Errorf("cli: encode document %s: %w", name, err)
	}
	fields := bytes.TrimSpace(body.Bytes())
	if len(fields) < 2 || fields[0] != '{' {
		return b, fmt.Errorf("cli: document %s is no JSON object", name)
	}
	b = append(b, `{"schema":"instantgrid/`...)
	b = append(b, name...)
	b = append(b, `/1"`...)
	if fields[1] != '}' {
		b = append(b, ',')
	}
	b = append(b, fields[1:]...)
	return append(b, '\n'), nil
}

// printedKey marks, in a root command's annotations, that the one document of
// this run is out.
const printedKey = "cli.printed"

// PrintJSON writes the result of cmd: one document named name. A command calls
// it once. If the command then fails, no second document follows, so a result
// that says in itself what failed stays the only one.
func PrintJSON(cmd *cobra.Command, name string, v any) error {
	b, err := AppendDocument(nil, name, v)
	if err != nil {
		return err
	}
	root := cmd.Root()
	if root.Annotations == nil {
		root.Annotations = make(map[string]string)
	}
	root.Annotations[printedKey] = name
	return writeAll(cmd.OutOrStdout(), b)
}

// PrintJSONLine writes one document of a stream of them (--watch), in one
// write, so that a reader sees it at once.
func PrintJSONLine(cmd *cobra.Command, name string, v any) error {
	b, err := AppendDocument(nil, name, v)
	if err != nil {
		return err
	}
	return writeAll(cmd.OutOrStdout(), b)
}

func writeAll(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// JSON reports whether cmd was asked for --json.
func JSON(cmd *cobra.Command) bool {
	f := cmd.Flags().Lookup("json")
	return f != nil && f.Value.String() == "true"
}

package rpc

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/instantgrid/instantgrid/gridapi/internal/frame"
)

// A FunctionInfo is what a worker says of a function that it offers.
type FunctionInfo struct {
	Name string       `json:"name"`
	Kind FunctionKind `json:"kind"`

	// Signature describes the types of argument and result by their structure,
	// with the names that they have in JSON: "{a float64; b []int} -> float64".
	// Empty: streams, or the worker offers too many functions to describe all.
	Signature string `json:"signature,omitempty"`

	// Typical is how long the worker's last calls of it took, on average. Zero:
	// there was none.
	Typical time.Duration `json:"typical_ns"`
}

// A FunctionKind says what is passed to a function.
type FunctionKind uint8

const (
	KindValues FunctionKind = 1 // values, by [Call]
	KindStream FunctionKind = 2 // bytes of any length, by [Client.CallStream]
	KindModule FunctionKind = 3 // it is opened, by [Open]
	KindMethod FunctionKind = 4 // it needs a handle, by [CallHandle]
)

var kindNames = [...]string{"unknown", "values", "stream", "module", "method"}

// String returns the kind's name in JSON.
func (k FunctionKind) String() string { return kindNames[min(int(k), len(kindNames))%len(kindNames)] }

// MarshalText implements [encoding.TextMarshaler].
func (k FunctionKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *FunctionKind) UnmarshalText(b []byte) error {
	for i, name := range kindNames {
		if i > 0 && name == string(b) {
			*k = FunctionKind(i)
			return nil
		}
	}
	return fmt.Errorf("rpc: there is no kind of function %q", b)
}

// A welcome says what a worker offers. It comes first, and again when that
// changes.
type welcome struct {
	version   uint16
	slots     uint16
	busy      uint16 // slots that are taken
	calls     uint64 // since its start, of all clients
	failures  uint64 // of these, the ones that ended with an error of the function
	name      string
	site      string
	functions []FunctionInfo
}

// appendBody leaves out signatures for which there is no room in a frame.
func (w welcome) appendBody(b []byte) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, w.version)
	b = binary.BigEndian.AppendUint16(b, w.slots)
	b = binary.BigEndian.AppendUint16(b, w.busy)
	b = binary.BigEndian.AppendUint64(b, w.calls)
	b = binary.BigEndian.AppendUint64(b, w.failures)
	b = frame.AppendText(b, w.name)
	b = frame.AppendText(b, w.site)
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.functions)))
	room := maxBody - (len(b) - at)
	for _, f := range w.functions {
		room -= functionLen + len(f.Name)
	}
	for _, f := range w.functions {
		b = append(b, byte(f.Kind))
		b = binary.BigEndian.AppendUint32(b, uint32(min(f.Typical.Milliseconds(), 1<<32-1)))
		b = frame.AppendText(b, f.Name)
		if len(f.Signature) > room {
			f.Signature = ""
		}
		room -= len(f.Signature)
		b = frame.AppendText(b, f.Signature)
	}
	return b
}

// functionLen is the length of a function in a welcome, without its texts.
const functionLen = 1 + 4 + 2 + 2

func parseWelcome(b []byte) (w welcome, err error) {
	f := frame.FieldsOf(b)
	w.version, w.slots, w.busy = f.U16(), f.U16(), f.U16()
	w.calls, w.failures = f.U64(), f.U64()
	w.name, w.site = f.Text(maxName), f.Text(maxName)
	n := int(f.U16())
	f.Refuse(n > maxFunctions)
	for i := 0; i < n && !f.Bad(); i++ {
		x := FunctionInfo{Kind: FunctionKind(f.U8())}
		f.Refuse(x.Kind < KindValues || x.Kind > KindMethod)
		x.Typical = time.Duration(f.U32()) * time.Millisecond
		x.Name = f.Text(maxName)
		x.Signature = f.Text(maxSignature)
		w.functions = append(w.functions, x)
	}
	return w, whole(&f, frameWelcome)
}

// names returns the names of the functions.
func (w welcome) names() []string {
	list := make([]string, len(w.functions))
	for i, f := range w.functions {
		list[i] = f.Name
	}
	return list
}

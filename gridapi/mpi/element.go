package mpi

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"unsafe"
)

// Elements are values of a fixed size: numbers, bool, and arrays and structs of
// them. On the wire they are little-endian, one after the other, without
// padding; int and uint take eight bytes. Where memory looks like that, slices
// travel as they are.

// littleEndian reports how this machine stores numbers.
var littleEndian = func() bool {
	x := uint16(1)
	return *(*byte)(unsafe.Pointer(&x)) == 1
}()

// wireSize returns the encoded size of a type, and whether memory holds the same
// bytes; ok is false for types of no fixed size.
func wireSize(t reflect.Type) (size int, plain, ok bool) {
	switch t.Kind() {
	case reflect.Bool: // not any byte is one
		return 1, false, true
	case reflect.Int, reflect.Uint:
		return 8, littleEndian && t.Size() == 8, true
	case reflect.Int8, reflect.Uint8, reflect.Int16, reflect.Uint16, reflect.Int32, reflect.Uint32, reflect.Int64, reflect.Uint64,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return int(t.Size()), littleEndian || t.Size() == 1, true
	case reflect.Array:
		n, plain, ok := wireSize(t.Elem())
		return n * t.Len(), plain, ok
	case reflect.Struct:
		plain := true
		for i := range t.NumField() {
			f := t.Field(i)
			n, p, ok := wireSize(f.Type)
			if !ok || !f.IsExported() {
				return 0, false, false
			}
			size += n
			plain = plain && p
		}
		return size, plain && size == int(t.Size()), true
	}
	return 0, false, false
}

// layout says how T is encoded.
func layout[T any]() (size int, plain bool, err error) {
	switch any(*new(T)).(type) { // the common ones, without reflection
	case float64, int64, uint64, complex64:
		return 8, littleEndian, nil
	case float32, int32, uint32:
		return 4, littleEndian, nil
	case byte, int8:
		return 1, true, nil
	}
	t := reflect.TypeFor[T]()
	size, plain, ok := wireSize(t)
	if !ok || size == 0 {
		return 0, false, fault(ErrType, "type", fmt.Errorf("%v has no fixed size, or fields that are not exported", t))
	}
	return size, plain, nil
}

// memory returns the bytes of s, which share its memory.
func memory[T any](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}

// values returns bytes that came from memory of T, or are aligned as T, as T.
func values[T any](b []byte) []T {
	var zero T
	n := len(b) / int(unsafe.Sizeof(zero))
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// encode returns the wire form of s: its memory, if that is plain.
func encode[T any](s []T) ([]byte, error) {
	size, plain, err := layout[T]()
	if err != nil {
		return nil, err
	}
	if plain {
		return memory(s), nil
	}
	b := make([]byte, 0, size*len(s))
	for i := range s {
		b = appendValue(b, reflect.ValueOf(&s[i]).Elem())
	}
	return b, nil
}

// room returns a buffer for the wire form of s, and what copies it there
// afterwards, which may be nil.
func room[T any](s []T) (b []byte, decode func() error, err error) {
	size, plain, err := layout[T]()
	if err != nil {
		return nil, nil, err
	}
	if plain {
		return memory(s), nil, nil
	}
	b = make([]byte, size*len(s))
	return b, func() error { decodeValues(b, s); return nil }, nil
}

func decodeValues[T any](b []byte, s []T) {
	for i := range s {
		b = setValue(reflect.ValueOf(&s[i]).Elem(), b)
	}
}

func appendValue(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendNumber(b, uint64(v.Int()), numberSize(v))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return appendNumber(b, v.Uint(), numberSize(v))
	case reflect.Float32:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v.Float())))
	case reflect.Float64:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Float()))
	case reflect.Complex64:
		c := complex64(v.Complex())
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(real(c)))
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(imag(c)))
	case reflect.Complex128:
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(real(v.Complex())))
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(imag(v.Complex())))
	case reflect.Array:
		for i := range v.Len() {
			b = appendValue(b, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			b = appendValue(b, v.Field(i))
		}
	}
	return b
}

// numberSize is the encoded size of an integer.
func numberSize(v reflect.Value) int {
	if v.Kind() == reflect.Int || v.Kind() == reflect.Uint {
		return 8
	}
	return int(v.Type().Size())
}

func appendNumber(b []byte, x uint64, size int) []byte {
	return append(b, binary.LittleEndian.AppendUint64(nil, x)[:size]...)
}

// number returns the little-endian number in size bytes.
func number(b []byte, size int) uint64 {
	var full [8]byte
	copy(full[:], b[:size])
	return binary.LittleEndian.Uint64(full[:])
}

// setValue decodes v from the front of b and returns the rest. b is long enough.
func setValue(v reflect.Value, b []byte) []byte {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(b[0] != 0)
		return b[1:]
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n := numberSize(v)
		x := number(b, n)
		v.SetInt(int64(x<<(64-8*n)) >> (64 - 8*n))
		return b[n:]
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n := numberSize(v)
		v.SetUint(number(b, n))
		return b[n:]
	case reflect.Float32:
		v.SetFloat(float64(math.Float32frombits(uint32(number(b, 4)))))
		return b[4:]
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(number(b, 8)))
		return b[8:]
	case reflect.Complex64:
		v.SetComplex(complex(float64(math.Float32frombits(uint32(number(b, 4)))), float64(math.Float32frombits(uint32(number(b[4:], 4))))))
		return b[8:]
	case reflect.Complex128:
		v.SetComplex(complex(math.Float64frombits(number(b, 8)), math.Float64frombits(number(b[8:], 8))))
		return b[16:]
	case reflect.Array:
		for i := range v.Len() {
			b = setValue(v.Index(i), b)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			b = setValue(v.Field(i), b)
		}
	}
	return b
}

package mpi

import (
	"cmp"
	"reflect"
)

// An Op combines values of T (MPI_Op). It is associative as far as the caller
// cares; the order in which values are combined depends on the number of ranks,
// their sites and the size of the message, never on timing.
type Op[T any] struct {
	name        string
	commutative bool
	each        func(a, b T) T
	slice       func(dst, left, right []T) // the same for many; nil: each
}

// Commutes says whether an Op may be combined in another order than that of
// ranks.
type Commutes bool

// What NewOp is told.
const (
	Commutative Commutes = true
	Ordered     Commutes = false
)

// NewOp makes an Op of a function. All ranks give the same name.
func NewOp[T any](name string, commutes Commutes, f func(a, b T) T) Op[T] {
	return Op[T]{name: name, commutative: bool(commutes), each: f}
}

// Integer is the constraint of bitwise operations.
type Integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

// Real is that of Max and Min.
type Real interface {
	Integer | ~float32 | ~float64
}

// Number is that of Sum and Prod.
type Number interface {
	Real | ~complex64 | ~complex128
}

// Sum adds.
func Sum[T Number]() Op[T] {
	return Op[T]{name: "sum", commutative: true, each: func(a, b T) T { return a + b }, slice: func(dst, left, right []T) {
		left, right = left[:len(dst)], right[:len(dst)]
		for i := range dst {
			dst[i] = left[i] + right[i]
		}
	}}
}

// Prod multiplies.
func Prod[T Number]() Op[T] {
	return Op[T]{name: "prod", commutative: true, each: func(a, b T) T { return a * b }}
}

// Max is the larger; a NaN stays.
func Max[T Real]() Op[T] {
	return Op[T]{name: "max", commutative: true, each: func(a, b T) T { return max(a, b) }}
}

// Min is the smaller; a NaN stays.
func Min[T Real]() Op[T] {
	return Op[T]{name: "min", commutative: true, each: func(a, b T) T { return min(a, b) }}
}

// BAnd, BOr and BXor combine bits.
func BAnd[T Integer]() Op[T] {
	return Op[T]{name: "band", commutative: true, each: func(a, b T) T { return a & b }}
}

// BOr is the bitwise or.
func BOr[T Integer]() Op[T] {
	return Op[T]{name: "bor", commutative: true, each: func(a, b T) T { return a | b }}
}

// BXor is the bitwise exclusive or.
func BXor[T Integer]() Op[T] {
	return Op[T]{name: "bxor", commutative: true, each: func(a, b T) T { return a ^ b }}
}

// LAnd, LOr and LXor combine truth values.
func LAnd() Op[bool] {
	return Op[bool]{name: "land", commutative: true, each: func(a, b bool) bool { return a && b }}
}

// LOr is the logical or.
func LOr() Op[bool] {
	return Op[bool]{name: "lor", commutative: true, each: func(a, b bool) bool { return a || b }}
}

// LXor is the logical exclusive or.
func LXor() Op[bool] {
	return Op[bool]{name: "lxor", commutative: true, each: func(a, b bool) bool { return a != b }}
}

// A Located is a value and where it is.
type Located[T any] struct {
	Value T
	Index int
}

// MaxLoc is the largest value and the lowest index that has it.
func MaxLoc[T Real]() Op[Located[T]] { return loc[T]("maxloc", 1) }

// MinLoc is the smallest value and the lowest index that has it.
func MinLoc[T Real]() Op[Located[T]] { return loc[T]("minloc", -1) }

func loc[T Real](name string, sign int) Op[Located[T]] {
	return Op[Located[T]]{name: name, commutative: true, each: func(a, b Located[T]) Located[T] {
		c := sign * cmp.Compare(a.Value, b.Value)
		if c < 0 || c == 0 && b.Index < a.Index {
			return b
		}
		return a
	}}
}

// combiner is op on bytes.
func (op Op[T]) combiner() (combiner, error) {
	size, plain, err := layout[T]()
	if err != nil {
		return combiner{}, err
	}
	if op.each == nil {
		return combiner{}, fault(ErrOp, "operation", nil)
	}
	out := combiner{commutative: op.commutative, element: size}
	switch {
	case plain && op.slice != nil:
		out.combine = func(dst, left, right []byte) { op.slice(values[T](dst), values[T](left), values[T](right)) }
	case plain:
		out.combine = func(dst, left, right []byte) {
			d, l, r := values[T](dst), values[T](left), values[T](right)
			for i := range d {
				d[i] = op.each(l[i], r[i])
			}
		}
	default:
		out.combine = func(dst, left, right []byte) {
			var l, r [1]T
			for at := 0; at+size <= len(dst); at += size {
				decodeValues(left[at:], l[:])
				decodeValues(right[at:], r[:])
				l[0] = op.each(l[0], r[0])
				appendValue(dst[at:at], reflect.ValueOf(&l[0]).Elem())
			}
		}
	}
	return out, nil
}

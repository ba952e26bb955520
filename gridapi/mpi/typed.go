package mpi

import (
	"context"
	"fmt"
)

// Calls on slices of values. T is a type of fixed size: a number, bool, or an array
// or struct of them with exported fields. What the call is otherwise is said at
// the method of Comm of that name.

// Send sends the values of buf.
func Send[T any](ctx context.Context, c *Comm, buf []T, dest, tag int) error {
	return sendTyped(ctx, c, standard, buf, dest, tag)
}

// Ssend sends the values of buf in synchronous mode.
func Ssend[T any](ctx context.Context, c *Comm, buf []T, dest, tag int) error {
	return sendTyped(ctx, c, synchronous, buf, dest, tag)
}

// Bsend sends the values of buf in buffered mode.
func Bsend[T any](ctx context.Context, c *Comm, buf []T, dest, tag int) error {
	return sendTyped(ctx, c, buffered, buf, dest, tag)
}

func sendTyped[T any](ctx context.Context, c *Comm, mode sendMode, buf []T, dest, tag int) error {
	b, err := encode(buf)
	if err != nil {
		return c.handled(err)
	}
	return c.send(ctx, mode, b, dest, tag)
}

// Isend begins to send the values of buf.
func Isend[T any](c *Comm, buf []T, dest, tag int) (*Request, error) {
	b, err := encode(buf)
	if err != nil {
		return nil, c.handled(err)
	}
	return c.isend(standard, b, dest, tag)
}

// Issend begins to send the values of buf in synchronous mode.
func Issend[T any](c *Comm, buf []T, dest, tag int) (*Request, error) {
	b, err := encode(buf)
	if err != nil {
		return nil, c.handled(err)
	}
	return c.isend(synchronous, b, dest, tag)
}

// Recv receives values into buf. Count tells how many came.
func Recv[T any](ctx context.Context, c *Comm, buf []T, source, tag int) (Status, error) {
	b, decode, err := room(buf)
	if err != nil {
		return Status{}, c.handled(err)
	}
	st, err := c.recv(ctx, b, source, tag)
	if err == nil && decode != nil {
		decodeValues(b[:st.Bytes], buf[:Count[T](st)])
	}
	return st, c.handled(err)
}

// Irecv begins to receive values into buf.
func Irecv[T any](c *Comm, buf []T, source, tag int) (*Request, error) {
	b, decode, err := room(buf)
	if err != nil {
		return nil, c.handled(err)
	}
	r, err := c.Irecv(b, source, tag)
	if err == nil && decode != nil {
		r.p.mu.Lock()
		r.decode = func() error {
			decodeValues(b[:r.status.Bytes], buf[:Count[T](r.status)])
			return nil
		}
		r.p.mu.Unlock()
	}
	return r, err
}

// Sendrecv sends out and receives into in at the same time.
func Sendrecv[T any](ctx context.Context, c *Comm, out []T, dest, sendTag int, in []T, source, recvTag int) (Status, error) {
	o, err := encode(out)
	if err != nil {
		return Status{}, c.handled(err)
	}
	b, decode, err := room(in)
	if err != nil {
		return Status{}, c.handled(err)
	}
	st, err := c.Sendrecv(ctx, o, dest, sendTag, b, source, recvTag)
	if err == nil && decode != nil {
		decodeValues(b[:st.Bytes], in[:Count[T](st)])
	}
	return st, err
}

// Count returns how many whole values of T a message holds (MPI_Get_count).
func Count[T any](st Status) int {
	size, _, err := layout[T]()
	if err != nil {
		return 0
	}
	return st.Bytes / size
}

// A Layout picks values of a slice, in an order: a derived datatype (MPI 4.1,
// section 5.1). Each run is values [At, At+Len).
type Layout []Run

// A Run is values that lie together.
type Run struct{ At, Len int }

// Vector is count runs of length, stride apart (MPI_Type_vector).
func Vector(count, length, stride int) Layout {
	l := make(Layout, count)
	for i := range l {
		l[i] = Run{i * stride, length}
	}
	return l
}

// Indexed is runs of the given places and lengths (MPI_Type_indexed).
func Indexed(at, lengths []int) (Layout, error) {
	if len(at) != len(lengths) {
		return nil, fault(ErrArg, "Indexed", fmt.Errorf("%d places and %d lengths", len(at), len(lengths)))
	}
	l := make(Layout, len(at))
	for i := range l {
		l[i] = Run{at[i], lengths[i]}
	}
	return l, nil
}

// Subarray is a box of rows in a matrix whose rows are width long
// (MPI_Type_create_subarray, in two dimensions).
func Subarray(width, row, column, rows, columns int) Layout {
	l := make(Layout, rows)
	for i := range l {
		l[i] = Run{(row+i)*width + column, columns}
	}
	return l
}

// Len returns how many values l picks.
func (l Layout) Len() (n int) {
	for _, r := range l {
		n += r.Len
	}
	return n
}

// within says whether l fits n values.
func (l Layout) within(op string, n int) error {
	for _, r := range l {
		if r.At < 0 || r.Len < 0 || r.At > n-r.Len {
			return fault(ErrArg, op, fmt.Errorf("values %d to %d of %d", r.At, r.At+r.Len, n))
		}
	}
	return nil
}

// Pack returns the values that l picks of buf (MPI_Pack).
func Pack[T any](buf []T, l Layout) ([]T, error) {
	if err := l.within("Pack", len(buf)); err != nil {
		return nil, err
	}
	out := make([]T, 0, l.Len())
	for _, r := range l {
		out = append(out, buf[r.At:r.At+r.Len]...)
	}
	return out, nil
}

// Unpack puts packed values where l says. There may be fewer.
func Unpack[T any](packed, buf []T, l Layout) error {
	if err := l.within("Unpack", len(buf)); err != nil {
		return err
	}
	for _, r := range l {
		packed = packed[copy(buf[r.At:r.At+r.Len], packed):]
	}
	return nil
}

// SendLayout sends what l picks of buf.
func SendLayout[T any](ctx context.Context, c *Comm, buf []T, l Layout, dest, tag int) error {
	packed, err := Pack(buf, l)
	if err != nil {
		return c.handled(err)
	}
	return Send(ctx, c, packed, dest, tag)
}

// RecvLayout receives values to where l says in buf.
func RecvLayout[T any](ctx context.Context, c *Comm, buf []T, l Layout, source, tag int) (Status, error) {
	if err := l.within("RecvLayout", len(buf)); err != nil {
		return Status{}, c.handled(err)
	}
	packed := make([]T, l.Len())
	st, err := Recv(ctx, c, packed, source, tag)
	if err != nil {
		return st, err
	}
	return st, Unpack(packed[:Count[T](st)], buf, l)
}

package mpi

import (
	"context"
	"fmt"
)

// The collective calls (MPI 4.1, chapter 6). Each is prepared once: a plan checks
// the arguments of this rank and says what to do; the blocking call and the one
// with I, which does not wait, carry it out. Calls differ at two ranks if kind,
// root, type, count or operation do: all ranks get ErrMismatch, or one of
// those that see it first ErrCount.

// A plan is a collective call with its arguments.
type plan struct {
	name   string
	check  uint32
	run    func(*collective) error
	decode func() error // what came, to the caller's slices; nil: nothing
	err    error
}

// do carries a plan out.
func (c *Comm) do(ctx context.Context, t plan) error {
	if t.err != nil {
		return c.handled(t.err)
	}
	return c.collect(ctx, t.name, t.check, func(x *collective) error {
		if err := t.run(x); err != nil {
			return err
		}
		if t.decode != nil {
			return t.decode()
		}
		return nil
	})
}

// begin carries a plan out without waiting.
func (c *Comm) begin(t plan) (*Request, error) {
	if t.err != nil {
		return nil, c.handled(t.err)
	}
	t.name = "I" + t.name
	return c.icollect(t.name, t.check, t.run, t.decode)
}

// newPlan signs a call of values of T.
func newPlan[T any](c *Comm, name string, root int, more ...any) (t plan, size int) {
	size, _, err := layout[T]()
	if err != nil {
		return plan{err: err}, 1
	}
	if root < 0 || root >= c.Size() {
		return plan{err: &Error{Class: ErrRoot, Op: name, Rank: root}}, 1
	}
	return plan{name: name, check: sign(name, root, append(more, size)...)}, size
}

func wrongCount(name string, format string, args ...any) plan {
	return plan{err: fault(ErrCount, name, fmt.Errorf(format, args...))}
}

// Barrier returns when all ranks have called it.
func (c *Comm) Barrier(ctx context.Context) error { return c.do(ctx, barrierPlan()) }

// Ibarrier is Barrier that does not wait.
func (c *Comm) Ibarrier() (*Request, error) { return c.begin(barrierPlan()) }

func barrierPlan() plan {
	return plan{name: "Barrier", check: sign("Barrier", 0), run: barrierAll}
}

// Bcast has all ranks get root's buf.
func Bcast[T any](ctx context.Context, c *Comm, buf []T, root int) error {
	return c.do(ctx, bcastPlan(c, buf, root))
}

// Ibcast is Bcast that does not wait.
func Ibcast[T any](c *Comm, buf []T, root int) (*Request, error) {
	return c.begin(bcastPlan(c, buf, root))
}

func bcastPlan[T any](c *Comm, buf []T, root int) plan {
	t, _ := newPlan[T](c, "Bcast", root, len(buf))
	if t.err != nil {
		return t
	}
	var b []byte
	if c.rank == root {
		b, t.err = encode(buf)
	} else {
		b, t.decode, t.err = room(buf)
	}
	t.run = func(x *collective) error { return bcastAll(x, b, root) }
	return t
}

// Gather brings the blocks of all ranks to root, in the order of ranks: in holds
// as many blocks as there are ranks, and matters at root only.
func Gather[T any](ctx context.Context, c *Comm, out, in []T, root int) error {
	return c.do(ctx, gatherPlan(c, out, in, root))
}

// Igather is Gather that does not wait.
func Igather[T any](c *Comm, out, in []T, root int) (*Request, error) {
	return c.begin(gatherPlan(c, out, in, root))
}

func gatherPlan[T any](c *Comm, out, in []T, root int) plan {
	t, _ := newPlan[T](c, "Gather", root, len(out))
	if t.err == nil && c.rank == root && len(in) != len(out)*c.Size() {
		return wrongCount(t.name, "%d values for %d ranks with %d each", len(in), c.Size(), len(out))
	}
	return between(t, c.rank == root, out, in, func(x *collective, o, i []byte) error { return gatherAll(x, root, o, i) })
}

// between completes a plan that sends out and, where receives is true, fills in.
func between[T any](t plan, receives bool, out, in []T, run func(x *collective, out, in []byte) error) plan {
	if t.err != nil {
		return t
	}
	var o, i []byte
	if o, t.err = encode(out); t.err != nil {
		return t
	}
	if receives {
		i, t.decode, t.err = room(in)
	}
	t.run = func(x *collective) error { return run(x, o, i) }
	return t
}

// spans checks counts of each rank and returns where each begins, in bytes, the
// end included.
func spans(c *Comm, name string, counts []int, have, size int) ([]int, error) {
	if len(counts) != c.Size() {
		return nil, fault(ErrCount, name, fmt.Errorf("%d counts for %d ranks", len(counts), c.Size()))
	}
	at := make([]int, len(counts)+1)
	for i, n := range counts {
		if n < 0 || n > have-at[i]/size {
			return nil, fault(ErrCount, name, fmt.Errorf("%d values do not hold counts %v", have, counts))
		}
		at[i+1] = at[i] + n*size
	}
	return at, nil
}

// Gatherv is Gather with blocks of different lengths: counts gives them, at root
// only, and they lie in in one after the other.
func Gatherv[T any](ctx context.Context, c *Comm, out, in []T, counts []int, root int) error {
	return c.do(ctx, gathervPlan(c, out, in, counts, root))
}

// Igatherv is Gatherv that does not wait.
func Igatherv[T any](c *Comm, out, in []T, counts []int, root int) (*Request, error) {
	return c.begin(gathervPlan(c, out, in, counts, root))
}

func gathervPlan[T any](c *Comm, out, in []T, counts []int, root int) plan {
	t, size := newPlan[T](c, "Gatherv", root)
	var at []int
	if t.err == nil && c.rank == root {
		at, t.err = spans(c, t.name, counts, len(in), size)
	}
	return between(t, c.rank == root, out, in, func(x *collective, o, i []byte) error { return gatherDirect(x.everybody(), root, o, i, at) })
}

// Scatter gives each rank its block of root's out, which matters at root only.
func Scatter[T any](ctx context.Context, c *Comm, out, in []T, root int) error {
	return c.do(ctx, scatterPlan(c, out, in, root))
}

// Iscatter is Scatter that does not wait.
func Iscatter[T any](c *Comm, out, in []T, root int) (*Request, error) {
	return c.begin(scatterPlan(c, out, in, root))
}

func scatterPlan[T any](c *Comm, out, in []T, root int) plan {
	t, _ := newPlan[T](c, "Scatter", root, len(in))
	if t.err == nil && c.rank == root && len(out) != len(in)*c.Size() {
		return wrongCount(t.name, "%d values for %d ranks with %d each", len(out), c.Size(), len(in))
	}
	return between(t, true, out, in, func(x *collective, o, i []byte) error { return scatterAll(x, root, o, i) })
}

// Scatterv is Scatter with blocks of different lengths: counts gives them, at
// root only.
func Scatterv[T any](ctx context.Context, c *Comm, out []T, counts []int, in []T, root int) error {
	return c.do(ctx, scattervPlan(c, out, counts, in, root))
}

// Iscatterv is Scatterv that does not wait.
func Iscatterv[T any](c *Comm, out []T, counts []int, in []T, root int) (*Request, error) {
	return c.begin(scattervPlan(c, out, counts, in, root))
}

func scattervPlan[T any](c *Comm, out []T, counts []int, in []T, root int) plan {
	t, size := newPlan[T](c, "Scatterv", root)
	var at []int
	if t.err == nil && c.rank == root {
		at, t.err = spans(c, t.name, counts, len(out), size)
	}
	return between(t, true, out, in, func(x *collective, o, i []byte) error { return scatterDirect(x.everybody(), root, o, at, i) })
}

// Allgather gives all ranks the blocks of all.
func Allgather[T any](ctx context.Context, c *Comm, out, in []T) error {
	return c.do(ctx, allgatherPlan(c, out, in))
}

// Iallgather is Allgather that does not wait.
func Iallgather[T any](c *Comm, out, in []T) (*Request, error) {
	return c.begin(allgatherPlan(c, out, in))
}

func allgatherPlan[T any](c *Comm, out, in []T) plan {
	t, _ := newPlan[T](c, "Allgather", 0, len(out))
	if t.err == nil && len(in) != len(out)*c.Size() {
		return wrongCount(t.name, "%d values for %d ranks with %d each", len(in), c.Size(), len(out))
	}
	return between(t, true, out, in, allgather)
}

// Allgatherv is Allgather with blocks of different lengths.
func Allgatherv[T any](ctx context.Context, c *Comm, out, in []T, counts []int) error {
	return c.do(ctx, allgathervPlan(c, out, in, counts))
}

// Iallgatherv is Allgatherv that does not wait.
func Iallgatherv[T any](c *Comm, out, in []T, counts []int) (*Request, error) {
	return c.begin(allgathervPlan(c, out, in, counts))
}

func allgathervPlan[T any](c *Comm, out, in []T, counts []int) plan {
	t, size := newPlan[T](c, "Allgatherv", 0, counts)
	var at []int
	if t.err == nil {
		at, t.err = spans(c, t.name, counts, len(in), size)
	}
	if t.err == nil && len(out) != counts[c.rank] {
		return wrongCount(t.name, "%d values, and %d were announced", len(out), counts[c.rank])
	}
	return between(t, true, out, in, func(x *collective, o, i []byte) error {
		copy(i[at[c.rank]:], o)
		return ring(x.everybody(), i, at)
	})
}

// Alltoall sends a block of out to each rank and receives one from each.
func Alltoall[T any](ctx context.Context, c *Comm, out, in []T) error {
	return c.do(ctx, alltoallPlan(c, out, in))
}

// Ialltoall is Alltoall that does not wait.
func Ialltoall[T any](c *Comm, out, in []T) (*Request, error) {
	return c.begin(alltoallPlan(c, out, in))
}

func alltoallPlan[T any](c *Comm, out, in []T) plan {
	n := c.Size()
	t, size := newPlan[T](c, "Alltoall", 0, len(out))
	if t.err == nil && (len(out) != len(in) || len(out)%n != 0) {
		return wrongCount(t.name, "%d values to send and %d to receive for %d ranks", len(out), len(in), n)
	}
	counts := make([]int, n)
	for i := range counts {
		counts[i] = len(out) / n
	}
	at, _ := spans(c, t.name, counts, len(out), size)
	return between(t, true, out, in, func(x *collective, o, i []byte) error {
		return alltoallDirect(x.everybody(), cut(o, at), cut(i, at))
	})
}

// cut returns the parts of b between the places at.
func cut(b []byte, at []int) [][]byte {
	parts := make([][]byte, len(at)-1)
	for i := range parts {
		parts[i] = b[at[i]:at[i+1]]
	}
	return parts
}

// Alltoallv is Alltoall with blocks of different lengths.
func Alltoallv[T any](ctx context.Context, c *Comm, out []T, outCounts []int, in []T, inCounts []int) error {
	return c.do(ctx, alltoallvPlan(c, out, outCounts, in, inCounts))
}

// Ialltoallv is Alltoallv that does not wait.
func Ialltoallv[T any](c *Comm, out []T, outCounts []int, in []T, inCounts []int) (*Request, error) {
	return c.begin(alltoallvPlan(c, out, outCounts, in, inCounts))
}

func alltoallvPlan[T any](c *Comm, out []T, outCounts []int, in []T, inCounts []int) plan {
	t, size := newPlan[T](c, "Alltoallv", 0)
	var from, to []int
	if t.err == nil {
		from, t.err = spans(c, t.name, outCounts, len(out), size)
	}
	if t.err == nil {
		to, t.err = spans(c, t.name, inCounts, len(in), size)
	}
	return between(t, true, out, in, func(x *collective, o, i []byte) error {
		return alltoallDirect(x.everybody(), cut(o, from), cut(i, to))
	})
}

// reducePlan prepares a call that combines a copy of out. work returns what
// goes to in; where receives is false nothing does.
func reducePlan[T any](c *Comm, name string, root int, out, in []T, wantIn int, op Op[T], receives bool, work func(x *collective, b []byte, op combiner) ([]byte, error), more ...any) plan {
	t, _ := newPlan[T](c, name, root, append(more, len(out), op.name)...)
	if t.err != nil {
		return t
	}
	if receives && len(in) != wantIn {
		return wrongCount(name, "%d values for %d", len(in), wantIn)
	}
	o, err := op.combiner()
	if err != nil {
		t.err = err
		return t
	}
	mine := append([]T(nil), out...) // aligned as T
	b, err := encode(mine)
	if err != nil {
		t.err = err
		return t
	}
	t.run = func(x *collective) error {
		b, err := work(x, b, o)
		if err != nil || !receives || b == nil {
			return err
		}
		target, decode, err := room(in)
		if err != nil {
			return err
		}
		copy(target, b)
		if decode != nil {
			return decode()
		}
		return nil
	}
	return t
}

// Reduce combines the values of all ranks, each with its like, into root's in.
func Reduce[T any](ctx context.Context, c *Comm, out, in []T, op Op[T], root int) error {
	return c.do(ctx, reduceCall(c, out, in, op, root))
}

// Ireduce is Reduce that does not wait.
func Ireduce[T any](c *Comm, out, in []T, op Op[T], root int) (*Request, error) {
	return c.begin(reduceCall(c, out, in, op, root))
}

func reduceCall[T any](c *Comm, out, in []T, op Op[T], root int) plan {
	return reducePlan(c, "Reduce", root, out, in, len(out), op, c.rank == root, func(x *collective, b []byte, op combiner) ([]byte, error) {
		return b, reduceAll(x, root, b, op)
	})
}

// Allreduce combines the values of all ranks into everybody's in: the same bits
// at all ranks.
func Allreduce[T any](ctx context.Context, c *Comm, out, in []T, op Op[T]) error {
	return c.do(ctx, allreduceCall(c, out, in, op))
}

// Iallreduce is Allreduce that does not wait.
func Iallreduce[T any](c *Comm, out, in []T, op Op[T]) (*Request, error) {
	return c.begin(allreduceCall(c, out, in, op))
}

func allreduceCall[T any](c *Comm, out, in []T, op Op[T]) plan {
	return reducePlan(c, "Allreduce", 0, out, in, len(out), op, true, func(x *collective, b []byte, op combiner) ([]byte, error) {
		return b, allreduceAll(x, b, op)
	})
}

// ReduceScatter combines the values of all ranks and gives each rank its block,
// counts of which are as long as counts says (MPI_Reduce_scatter).
func ReduceScatter[T any](ctx context.Context, c *Comm, out, in []T, counts []int, op Op[T]) error {
	return c.do(ctx, reduceScatterCall(c, out, in, counts, op))
}

// IreduceScatter is ReduceScatter that does not wait.
func IreduceScatter[T any](c *Comm, out, in []T, counts []int, op Op[T]) (*Request, error) {
	return c.begin(reduceScatterCall(c, out, in, counts, op))
}

// ReduceScatterBlock is ReduceScatter with blocks of one length.
func ReduceScatterBlock[T any](ctx context.Context, c *Comm, out, in []T, op Op[T]) error {
	counts := make([]int, c.Size())
	for i := range counts {
		counts[i] = len(in)
	}
	return ReduceScatter(ctx, c, out, in, counts, op)
}

func reduceScatterCall[T any](c *Comm, out, in []T, counts []int, op Op[T]) plan {
	size, _, err := layout[T]()
	if err != nil {
		return plan{err: err}
	}
	at, err := spans(c, "ReduceScatter", counts, len(out), size)
	if err != nil {
		return plan{err: err}
	}
	if at[c.Size()] != len(out)*size {
		return wrongCount("ReduceScatter", "%d values for counts %v", len(out), counts)
	}
	return reducePlan(c, "ReduceScatter", 0, out, in, counts[c.rank], op, true, func(x *collective, b []byte, op combiner) ([]byte, error) {
		mine := make([]byte, at[c.rank+1]-at[c.rank])
		return mine, reduceScatterAll(x, b, at, mine, op)
	}, counts)
}

// Scan gives each rank the values of all ranks up to it, combined.
func Scan[T any](ctx context.Context, c *Comm, out, in []T, op Op[T]) error {
	return c.do(ctx, scanCall(c, "Scan", out, in, op))
}

// Iscan is Scan that does not wait.
func Iscan[T any](c *Comm, out, in []T, op Op[T]) (*Request, error) {
	return c.begin(scanCall(c, "Scan", out, in, op))
}

// Exscan gives each rank the values of all ranks before it, combined. Rank 0's
// in is left alone.
func Exscan[T any](ctx context.Context, c *Comm, out, in []T, op Op[T]) error {
	return c.do(ctx, scanCall(c, "Exscan", out, in, op))
}

// Iexscan is Exscan that does not wait.
func Iexscan[T any](c *Comm, out, in []T, op Op[T]) (*Request, error) {
	return c.begin(scanCall(c, "Exscan", out, in, op))
}

func scanCall[T any](c *Comm, name string, out, in []T, op Op[T]) plan {
	exclusive := name == "Exscan"
	return reducePlan(c, name, 0, out, in, len(out), op, true, func(x *collective, b []byte, op combiner) ([]byte, error) {
		err := scan(x.everybody(), b, op, exclusive)
		if exclusive && c.rank == 0 {
			return nil, err
		}
		return b, err
	})
}

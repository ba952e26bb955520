package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// A function is what a worker offers under a name.
type function struct {
	signature string
	module    string // the module whose handle it needs or, with open, makes; empty: none
	// One of the three is set.
	values func(ctx context.Context, state any, codec Codec, argument []byte) ([]byte, error)
	stream func(ctx context.Context, argument io.Reader, result io.Writer) error
	open   func(ctx context.Context, codec Codec, argument []byte) (any, error)

	typical atomic.Int64 // of its last calls, in ns; zero: there was none
}

// info describes f.
func (f *function) info(name string) FunctionInfo {
	x := FunctionInfo{Name: name, Kind: KindValues, Signature: f.signature, Typical: time.Duration(f.typical.Load())}
	switch {
	case f.stream != nil:
		x.Kind = KindStream
	case f.open != nil:
		x.Kind = KindModule
	case f.module != "":
		x.Kind = KindMethod
	}
	return x
}

// took takes in how long a call took.
func (f *function) took(d time.Duration) {
	if last := time.Duration(f.typical.Load()); last > 0 {
		d = last + (d-last)/4
	}
	f.typical.Store(int64(max(d, 1)))
}

// Register offers f under a name of at most 64 bytes. The context ends when
// the caller no longer wants the result, at its deadline, and when the worker
// is closed. An error ends the call for good: it is not tried elsewhere. A
// panic is such an error. Register replaces a function of the same name.
func Register[In, Out any](w *Worker, name string, f func(ctx context.Context, in In) (Out, error)) error {
	return w.register(name, &function{
		signature: signatureOf[In, Out](),
		values: func(ctx context.Context, _ any, codec Codec, argument []byte) ([]byte, error) {
			var in In
			if err := codec.Unmarshal(argument, &in); err != nil {
				return nil, &argumentError{err}
			}
			out, err := f(ctx, in)
			if err != nil {
				return nil, err
			}
			return codec.Marshal(out)
		},
	})
}

// RegisterStream offers a function whose argument and result are streams of
// bytes of any length: neither is held in memory. A slow reader holds up the
// writer on the other side.
func RegisterStream(w *Worker, name string, f func(ctx context.Context, argument io.Reader, result io.Writer) error) error {
	return w.register(name, &function{stream: f})
}

// RegisterModule offers a module: state that stays with the worker between
// calls (OmniRPC's initialised remote module). Opening a [Handle] runs open;
// the state lives until the handle is closed, its client is gone, or it has
// not been called for WorkerConfig.HandleIdle. A state that is an [io.Closer]
// is closed then.
func RegisterModule[In, State any](w *Worker, module string, open func(ctx context.Context, in In) (State, error)) error {
	return w.register(module, &function{
		signature: signatureOf[In, struct{}](),
		module:    module,
		open: func(ctx context.Context, codec Codec, argument []byte) (any, error) {
			var in In
			if err := codec.Unmarshal(argument, &in); err != nil {
				return nil, &argumentError{err}
			}
			return open(ctx, in)
		},
	})
}

// RegisterMethod offers a function on the state of a module, whose State it
// must share. Calls on one handle are carried out one at a time.
func RegisterMethod[State, In, Out any](w *Worker, module, name string, f func(ctx context.Context, state State, in In) (Out, error)) error {
	return w.register(name, &function{
		signature: signatureOf[In, Out](),
		module:    module,
		values: func(ctx context.Context, state any, codec Codec, argument []byte) ([]byte, error) {
			s, ok := state.(State)
			if !ok {
				return nil, fmt.Errorf("the state of module %s is a %T", module, state)
			}
			var in In
			if err := codec.Unmarshal(argument, &in); err != nil {
				return nil, &argumentError{err}
			}
			out, err := f(ctx, s, in)
			if err != nil {
				return nil, err
			}
			return codec.Marshal(out)
		},
	})
}

// An argumentError is an argument that is not of the function's type.
type argumentError struct{ err error }

func (e *argumentError) Error() string { return "the argument cannot be read: " + e.err.Error() }
func (e *argumentError) Unwrap() error { return e.err }

// register adds a function and tells the clients.
func (w *Worker) register(name string, f *function) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("rpc: the name of a function has 1 to %d bytes, not %d", maxName, len(name))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.functions[name] == nil && len(w.functions) >= maxFunctions {
		return fmt.Errorf("rpc: a worker offers at most %d functions", maxFunctions)
	}
	w.functions[name] = f
	w.changedLocked()
	return nil
}

// Busy is returned by a function that cannot be carried out here now, though
// elsewhere or later: no memory, no room on the disk. The call goes to
// another worker.
func Busy(cause string) error { return &busyError{cause} }

type busyError struct{ cause string }

func (e *busyError) Error() string { return "rpc: busy: " + e.cause }

// Progress tells the caller how much of the call that ctx belongs to is done,
// from 0 to 1. It costs nothing and may be called often.
func Progress(ctx context.Context, part float64) {
	if x, ok := ctx.Value(progressKey{}).(*execution); ok {
		x.progress.Store(uint32(max(0, min(part, 1)) * progressWhole))
	}
}

type progressKey struct{}

// failureOf turns the error of a function into what its caller is told.
func failureOf(ctx context.Context, err error) failure {
	var busy *busyError
	var argument *argumentError
	switch {
	case errors.As(err, &busy):
		return failure{code: failBusy, pause: uint32(busyPause.Milliseconds()), message: busy.cause}
	case errors.As(err, &argument):
		return failure{code: failType, message: argument.Error()}
	case ctx.Err() != nil:
		return failure{code: failAborted, message: context.Cause(ctx).Error()}
	}
	return failure{code: failFunction, message: err.Error()}
}

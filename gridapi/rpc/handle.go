package rpc

import (
	"context"
	"errors"
	"sync"
)

// A Handle is the state of a module on one worker. Its calls are carried out
// there, one at a time, and never elsewhere: when the worker is lost they end
// with a [*HandleLostError].
type Handle struct {
	client *Client
	bound  *handleConn
	turn   sync.Mutex // held by the call under way
}

// A handleConn is the connection that a handle lives with.
type handleConn struct {
	worker string
	conn   *clientConn // nil: not open yet, or lost
}

// openTries is how many workers are asked to make a handle.
const openTries = 3

// Open makes a handle of a module on one of the workers that offer it.
func Open[In any](ctx context.Context, c *Client, module string, in In, options ...Option) (*Handle, error) {
	for try := 1; ; try++ {
		p := &pending{
			signature: signature[In, struct{}](c), codec: c.cfg.Codec, handle: &handleConn{},
			spec: callSpec{function: module, once: true},
		}
		for _, o := range options {
			o(p)
		}
		var err error
		if p.argument, err = p.codec.Marshal(in); err != nil {
			return nil, &ArgumentError{Function: module, Problem: err.Error()}
		}
		if err := c.submit(ctx, p, nil); err != nil {
			return nil, err
		}
		<-p.done
		if p.err == nil {
			return &Handle{client: c, bound: p.handle}, nil
		}
		// A worker that is lost while it makes a state has kept nothing of it.
		var maybe *MaybeExecutedError
		if !errors.As(p.err, &maybe) || try == openTries {
			return nil, p.err
		}
	}
}

// Worker returns the address of the worker.
func (h *Handle) Worker() string { return h.bound.worker }

// CallHandle calls a function of [RegisterMethod] on the state of h. A second
// call waits for the first.
func CallHandle[In, Out any](ctx context.Context, h *Handle, function string, in In) (out Out, err error) {
	h.turn.Lock()
	defer h.turn.Unlock()
	c := h.client
	if h.bound.conn == nil {
		return out, &HandleLostError{Function: function, Worker: h.bound.worker, Reason: "it was closed"}
	}
	p := &pending{
		signature: signature[In, Out](c), codec: c.cfg.Codec, handle: h.bound,
		spec: callSpec{function: function, bound: h.bound.worker},
	}
	if p.argument, err = p.codec.Marshal(in); err != nil {
		return out, &ArgumentError{Function: function, Problem: err.Error()}
	}
	if err := c.submit(ctx, p, nil); err != nil {
		return out, err
	}
	// A call that ctx ends leaves the connection, and with it the state.
	<-p.done
	if p.err != nil && ctx.Err() != nil {
		h.lose()
	}
	return (&Session[Out]{p}).Wait(ctx)
}

func (h *Handle) lose() {
	if h.bound.conn != nil {
		h.bound.conn.close()
		h.bound.conn = nil
	}
}

// Close gives the state back. It waits for a call under way, and may be called
// twice.
func (h *Handle) Close() error {
	h.turn.Lock()
	defer h.turn.Unlock()
	h.lose()
	return nil
}

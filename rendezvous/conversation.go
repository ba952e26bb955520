package rendezvous

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/instantgrid/instantgrid/rendezvous/internal/protocol"
)

// A Conversation is a short session with a rendezvous, without registration,
// for questions to its ledger: somebody who is no member yet joins a grid in
// one. The rendezvous ends it after a few seconds. Questions are asked one
// after the other.
type Conversation struct {
	client  *Client // for its configuration and errors
	session Session
	control net.Conn

	mu      sync.Mutex // held while a question is asked; guards what follows
	request uint32
}

// Converse begins a conversation. Of cfg, Server, Endpoint and Links or Dial,
// and Resolve count. The error is a [*RefusedError] or an [*UnreachableError].
func Converse(ctx context.Context, cfg Config) (*Conversation, error) {
	if cfg.Resolve == nil {
		cfg.Resolve = systemResolver
	}
	c := &Client{cfg: cfg}
	if cfg.Endpoint != nil {
		c.self = cfg.Endpoint.PeerID()
	}
	dialing, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	sess, err := c.dial(dialing)
	if err != nil {
		return nil, c.explain(err)
	}
	control, err := sess.OpenControl(dialing)
	if err == nil {
		_, err = control.Write(protocol.Append(nil, protocol.Hello{Version: protocol.Version, Software: software}))
	}
	if err != nil {
		sess.CloseWithError(protocol.ReasonNone.CloseCode(), "")
		return nil, c.explain(err)
	}
	return &Conversation{client: c, session: sess, control: control}, nil
}

// Ask puts a question to the ledger and returns its answer.
func (v *Conversation) Ask(ctx context.Context, question []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	answer, err := v.ask(ctx, question)
	if err == nil {
		return answer, nil
	}
	if ctx.Err() != nil {
		return nil, &UnreachableError{Server: v.client.cfg.Server, Err: errNoAnswer, ended: ctx.Err()}
	}
	// What ended the session says more than the read that it broke off.
	select {
	case <-v.session.Done():
		if v.session.Err() != nil {
			err = v.session.Err()
		}
	case <-time.After(time.Second):
	}
	return nil, v.client.explain(err)
}

func (v *Conversation) ask(ctx context.Context, question []byte) ([]byte, error) {
	if err := v.control.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { v.control.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	v.request++
	var b []byte
	for _, m := range protocol.Asks(v.request, question) {
		b = protocol.Append(b, m)
	}
	if _, err := v.control.Write(b); err != nil {
		return nil, err
	}
	var collector protocol.Collector
	for {
		m, err := protocol.Read(v.control)
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case protocol.Error:
			return nil, &RefusedError{Server: v.client.cfg.Server, Self: v.client.self, Reason: m.Reason, Text: m.Text}
		case protocol.Answer:
			whole, done, err := collector.Add(m.Request, m.More, m.Data, maxAnswer)
			if err != nil {
				return nil, err
			}
			if done && m.Request == v.request {
				return whole, nil
			}
		case protocol.Hello, protocol.Unknown, protocol.OK:
		default:
			return nil, fmt.Errorf("%w: %T in a conversation", protocol.ErrMalformed, m)
		}
	}
}

// Close ends the conversation.
func (v *Conversation) Close() error {
	return v.session.CloseWithError(protocol.ReasonNone.CloseCode(), "done")
}

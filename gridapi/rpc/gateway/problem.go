package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/instantgrid/instantgrid/gridapi/rpc"
)

// problemBase begins the type of each problem: the page that explains it.
const problemBase = "https://github.com/instantgrid/instantgrid/blob/main/docs/rpc.md#problem-"

// A problem is an error for programs (RFC 9457).
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Call     uint64   `json:"call,omitempty"`
	Function string   `json:"function,omitempty"`
	Worker   string   `json:"worker,omitempty"`
	Workers  []string `json:"workers,omitempty"` // where there are several
	Next     string   `json:"next,omitempty"`

	kind   string // ends the type
	status int
}

// problem answers with p.
func (g *Gateway) problem(w http.ResponseWriter, p problem) {
	g.stats.failed.Add(1)
	writeProblem(w, p)
}

func writeProblem(w http.ResponseWriter, p problem) {
	p.Type, p.Status = problemBase+p.kind, p.status
	b, err := json.Marshal(p)
	if err != nil { // a text that is no UTF-8 is no error
		b = []byte(`{"title":"Internal error","status":500}`)
	}
	head := w.Header()
	head.Set("Content-Type", "application/problem+json")
	head.Set("Cache-Control", "no-store")
	w.WriteHeader(p.status)
	w.Write(append(b, '\n'))
}

// fail answers with what err says of a call.
func (g *Gateway) fail(w http.ResponseWriter, err error, function string, call uint64) {
	p := problemOf(err)
	if p.Function == "" {
		p.Function = function
	}
	if p.Call == 0 {
		p.Call = call
	}
	if p.kind == "failed" && g.cfg.Explain != nil {
		if cause, next := g.cfg.Explain(err); cause != "" {
			p.Detail, p.Next = cause, next
		}
	}
	if errors.Is(err, errTooLargeKind) {
		g.stats.tooLarge.Add(1)
	}
	g.problem(w, p)
}

// errTooLargeKind matches any errTooLarge.
var errTooLargeKind = errors.New("gateway: an argument is too large")

// Is implements the interface of errors.Is.
func (e *errTooLarge) Is(target error) bool { return target == errTooLargeKind }

// problemOf says what an error of a call means.
func problemOf(err error) problem {
	var (
		function *rpc.FunctionError
		argument *rpc.ArgumentError
		none     *rpc.NoWorkerError
		poison   *rpc.PoisonError
		quorum   *rpc.NoQuorumError
		attempts *rpc.AttemptsError
		maybe    *rpc.MaybeExecutedError
		lost     *rpc.HandleLostError
		large    *errTooLarge
		notJSON  *errNotJSON
	)
	switch {
	case errors.As(err, &function):
		return problem{kind: "function-failed", status: http.StatusUnprocessableEntity, Title: "The function returned an error",
			Detail: function.Cause(), Call: function.Call, Function: function.Function, Worker: function.Worker, Next: function.Next()}
	case errors.As(err, &argument):
		return problem{kind: "wrong-argument", status: http.StatusBadRequest, Title: "The function does not take this argument",
			Detail: argument.Cause(), Call: argument.Call, Function: argument.Function, Worker: argument.Worker, Next: argument.Next()}
	case errors.As(err, &notJSON):
		next := "send JSON"
		if notJSON.signature != "" {
			next += "; the function is " + notJSON.signature
		}
		return problem{kind: "wrong-argument", status: http.StatusBadRequest, Title: "The function does not take this argument", Detail: notJSON.Error(), Next: next}
	case errors.As(err, &large):
		return problem{kind: "argument-too-large", status: http.StatusRequestEntityTooLarge, Title: "The argument is too large", Detail: large.Error(),
			Next: "give the function the name of the data rather than the data"}
	case errors.As(err, &none):
		return problem{kind: "no-worker", status: http.StatusNotFound, Title: "No worker offers the function", Detail: none.Cause(), Function: none.Function, Next: none.Next()}
	case errors.As(err, &poison):
		return problem{kind: "workers-lost", status: http.StatusBadGateway, Title: "The call was given up, since workers were lost over it",
			Detail: poison.Cause(), Call: poison.Call, Function: poison.Function, Workers: poison.Workers, Next: poison.Next()}
	case errors.As(err, &quorum):
		return problem{kind: "no-agreement", status: http.StatusBadGateway, Title: "The workers' results differ",
			Detail: quorum.Cause(), Call: quorum.Call, Function: quorum.Function, Workers: quorum.Workers, Next: quorum.Next()}
	case errors.As(err, &attempts):
		return problem{kind: "not-done", status: http.StatusBadGateway, Title: "No worker could do the call",
			Detail: attempts.Cause(), Call: attempts.Call, Function: attempts.Function, Next: attempts.Next()}
	case errors.As(err, &maybe):
		return problem{kind: "maybe-done", status: http.StatusBadGateway, Title: "The worker was lost, and the call may have been done",
			Detail: maybe.Cause(), Call: maybe.Call, Function: maybe.Function, Worker: maybe.Worker, Next: maybe.Next()}
	case errors.As(err, &lost):
		return problem{kind: "needs-state", status: http.StatusBadRequest, Title: "The function works on a state that HTTP does not keep",
			Detail: lost.Cause(), Function: lost.Function, Worker: lost.Worker, Next: "call it from a Go program"}
	case errors.Is(err, context.DeadlineExceeded):
		return problem{kind: "timeout", status: http.StatusGatewayTimeout, Title: "The time for the call is over", Detail: err.Error(), Next: "allow more: timeout=10m"}
	case errors.Is(err, context.Canceled), errors.Is(err, rpc.ErrClosed):
		return problem{kind: "cancelled", status: http.StatusServiceUnavailable, Title: "The call was cancelled", Detail: err.Error(), Next: "call again"}
	}
	return problem{kind: "failed", status: http.StatusBadGateway, Title: "The call failed", Detail: err.Error(), Next: "see who works: GET /v1/workers"}
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

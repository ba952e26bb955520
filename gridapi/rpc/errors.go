package rpc

import (
	"fmt"
	"strings"
)

// A FunctionError is the error that the function itself returned. The call was
// carried out.
type FunctionError struct {
	Function, Worker string
	Call             uint64
	Message          string
}

func (e *FunctionError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names call, function and worker.
func (e *FunctionError) Object() string { return callName(e.Function, e.Call) + " on " + e.Worker }

// Cause is what the function said.
func (e *FunctionError) Cause() string { return e.Message }

// Next says what to do.
func (e *FunctionError) Next() string { return "look at the arguments of this call" }

// A PoisonError is a call that is not tried again, since several workers were
// lost while they had it.
type PoisonError struct {
	Function string
	Call     uint64
	Workers  []string
}

func (e *PoisonError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names the call.
func (e *PoisonError) Object() string { return callName(e.Function, e.Call) }

// Cause names the workers.
func (e *PoisonError) Cause() string {
	return fmt.Sprintf("%d workers were lost while they had it: %s", len(e.Workers), strings.Join(e.Workers, ", "))
}

// Next says what to do.
func (e *PoisonError) Next() string { return "try its arguments on a worker of your own" }

// A NoQuorumError is a verified call whose results differ.
type NoQuorumError struct {
	Function string
	Call     uint64
	Need     int
	Workers  []string
}

func (e *NoQuorumError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names the call.
func (e *NoQuorumError) Object() string { return callName(e.Function, e.Call) }

// Cause says how the results differ.
func (e *NoQuorumError) Cause() string {
	return fmt.Sprintf("no %d of the results of %s are equal", e.Need, strings.Join(e.Workers, ", "))
}

// Next says what to do.
func (e *NoQuorumError) Next() string {
	return "if the function is not deterministic, give it a comparison; otherwise some of these workers are broken or lie"
}

// An AttemptsError is a call that no worker could carry out.
type AttemptsError struct {
	Function string
	Call     uint64
	Causes   []string // "WORKER: CAUSE", of each attempt
}

func (e *AttemptsError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names the call.
func (e *AttemptsError) Object() string { return callName(e.Function, e.Call) }

// Cause tells the last attempts.
func (e *AttemptsError) Cause() string {
	last := e.Causes[max(0, len(e.Causes)-3):]
	return fmt.Sprintf("%d attempts failed, the last: %s", len(e.Causes), strings.Join(last, "; "))
}

// Next says what to do.
func (e *AttemptsError) Next() string { return "look at the workers: grid workers --all" }

// A MaybeExecutedError is a call that may be carried out once at the most, and
// whose worker was lost: it may or may not have been.
type MaybeExecutedError struct {
	Function, Worker string
	Call             uint64
	Reason           string
}

func (e *MaybeExecutedError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names call, function and worker.
func (e *MaybeExecutedError) Object() string { return callName(e.Function, e.Call) + " on " + e.Worker }

// Cause says what happened.
func (e *MaybeExecutedError) Cause() string {
	return "the worker was lost (" + e.Reason + "), and the call may or may not have been carried out"
}

// Next says what to do.
func (e *MaybeExecutedError) Next() string {
	return "find out what it has done before you call again, or call it at least once"
}

// A HandleLostError is a call on a handle whose worker, and with it the state,
// is gone.
type HandleLostError struct {
	Function, Worker string
	Reason           string
}

func (e *HandleLostError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names function and worker.
func (e *HandleLostError) Object() string { return "handle of " + e.Function + " on " + e.Worker }

// Cause says what happened.
func (e *HandleLostError) Cause() string { return "its state is gone with the worker: " + e.Reason }

// Next says what to do.
func (e *HandleLostError) Next() string { return "make a new handle" }

// An ArgumentError is an argument that the function does not take: of another
// type, or too large. Worker is empty, and Call zero, where the argument could
// not be encoded.
type ArgumentError struct {
	Function, Worker string
	Call             uint64
	Problem          string
}

func (e *ArgumentError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names the function.
func (e *ArgumentError) Object() string {
	if e.Worker == "" {
		return "argument of " + e.Function
	}
	return "argument of " + callName(e.Function, e.Call) + " on " + e.Worker
}

// Cause says what is wrong.
func (e *ArgumentError) Cause() string { return e.Problem }

// Next says what to do.
func (e *ArgumentError) Next() string {
	return "compare the types of both sides; what is large belongs into a stream or the store"
}

// A NoWorkerError is a function that no worker offers now.
type NoWorkerError struct {
	Function string
	Workers  int // that are connected
}

func (e *NoWorkerError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }

// Object names the function.
func (e *NoWorkerError) Object() string { return "function " + e.Function }

// Cause says how many were asked.
func (e *NoWorkerError) Cause() string {
	if e.Workers == 0 {
		return "no worker can be reached"
	}
	return fmt.Sprintf("none of the %d workers that can be reached offers it", e.Workers)
}

// Next says what to do.
func (e *NoWorkerError) Next() string { return "see who offers what, and why not: grid workers --all" }

// A ResultError is a result that is not of the type that the caller wants.
type ResultError struct {
	Function string
	Call     uint64
	Err      error
}

func (e *ResultError) Error() string { return "rpc: " + e.Object() + ": " + e.Cause() }
func (e *ResultError) Unwrap() error { return e.Err }

// Object names the call.
func (e *ResultError) Object() string { return "result of " + callName(e.Function, e.Call) }

// Cause says what is wrong.
func (e *ResultError) Cause() string { return e.Err.Error() }

// Next says what to do.
func (e *ResultError) Next() string { return "compare the types of both sides" }

func callName(function string, call uint64) string {
	return fmt.Sprintf("call %d of %s", call, function)
}

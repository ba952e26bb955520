// Package sweep does many tasks at once and keeps what is done: a parameter
// sweep whose master may be killed at any moment and started again.
//
// [Run] hands tasks to a function, a window of them at once, writes each result
// to a [Journal] before anybody sees it, and emits the results in the order of
// the tasks or as they come. A task whose result is in the journal is not done
// again.
//
// It knows nothing of calls, workers and terminals.
package sweep

// Package gateway has programs in any language call functions over HTTP: JSON in
// and out for functions on values, bytes for programs.
//
//	POST /v1/functions/NAME   calls; the body is the argument, the answer the result
//	GET  /v1/functions        what is offered, by whom
//	GET  /v1/workers          who works, or why not
//	GET  /openapi.json        the same as an OpenAPI 3.1 description, with the types
//
// A [Gateway] is an http.Handler over a client of package rpc; it authorizes
// nobody. Serve it on a Unix socket that only its user reaches, or on loopback
// behind [Guard], which asks for a token and keeps the pages of browsers out.
//
// Errors are problem details (RFC 9457) that name call, function and worker.
// A Gateway may be used from several goroutines.
package gateway

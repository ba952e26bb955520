// Package instantgrid turns home and office computers behind NATs into one
// grid. The root holds no code: it documents the module and tests what is true
// of all of it.
//
//   - ri2n: encrypted streams over several paths at once (docs/wire-format.md)
//   - punch: UDP paths through NATs
//   - rendezvous: the public server that introduces peers, and its client
//   - overlay: nodes and their sockets, the package to embed
//   - netsim: networks with NATs, simulated and in kernel namespaces
//   - cmd: the programs rendezvous, grid, ri2n-bench and netsim
//
// The layers and who may import whom are in docs/architecture.md;
// imports_test.go keeps that table true.
package instantgrid

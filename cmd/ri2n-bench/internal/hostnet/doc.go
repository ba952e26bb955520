// Package hostnet changes, inside a network namespace, what a comparison of
// transports needs to hold still: offloads of devices, and the paths of
// Multipath TCP. All functions act on the namespace of the calling thread.
package hostnet

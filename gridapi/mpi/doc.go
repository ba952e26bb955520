// Package mpi is the Message Passing Interface (MPI 4.1) for Go, with the
// failure handling of ULFM, between computers behind NATs as well as in one
// program.
//
// An [Endpoint] joins one rank to the others: [Join] makes one of connections,
// [Local] in memory. [Init] makes it a [Process], whose [Process.World] is the
// communicator of all ranks:
//
//	ep, err := mpi.Join(ctx, mpi.MeshConfig{Job: job, Rank: rank, Size: size, Listener: ln, Dial: dial})
//	p, err := mpi.Init(ep, mpi.Config{})
//	defer p.Finalize(ctx)
//	sum := make([]float64, 1)
//	err = mpi.Allreduce(ctx, p.World(), []float64{x}, sum, mpi.Sum[float64]())
//
// Methods of [Comm] move bytes, functions values of any type of fixed size.
// Everything that waits takes a context. When a rank fails, calls that need it
// end with [ErrProcFailed]; [Comm.Revoke], [Comm.Agree] and [Comm.Shrink] lead
// the others on.
//
// Exported methods may be called from several goroutines; collective calls on a
// communicator come in the same order at all ranks.
//
// The ranks of a job trust each other: any of them may declare another dead.
// Whether a connection comes from the rank that it names is for
// [MeshConfig.Verify] and, below it, the overlay to say. There are no one-sided
// calls, no files and no intercommunicators.
//
// Bytes on the wire: docs/mpi-protocol.md. Guide: docs/mpi.md.
package mpi

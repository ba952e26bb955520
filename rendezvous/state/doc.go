// Package state has the stores of a rendezvous's ledger: a file of its own
// ([OpenBolt]), for one server, and etcd ([OpenEtcd]), for several that share
// the same grids. Both pass the same tests. What Update has returned without an
// error survives kill -9 and, as far as the disk tells the truth, a power cut.
package state

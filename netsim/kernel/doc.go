// Package kernel runs a netsim scenario on the Linux kernel: hosts and NATs
// are network namespaces, sockets are real ones, and NATs are nftables rules.
//
// The model: each node is a namespace without a name, held by one thread of
// this process, so nothing is left when the process ends, however it ends. The
// Internet in the middle is this process: the uplink of a node on the core is
// a TUN device, whose packets are read here, delayed, shaped or lost as the
// node's netsim.Link says, and written to the device of the destination. A
// link behind a NAT is a veth pair while it is perfect, else a pair of TUN
// devices joined in the same way.
//
// Start is the first call; it needs root, and Check tells beforehand whether
// it would be refused. Sockets come from Host.ListenPacket, Host.Listen and
// Host.Dial and may be used from any goroutine; Host.Command starts a process
// inside a host. All methods may be called concurrently.
//
// The clock is the real one. Packets leave a link up to about one millisecond
// late, the resolution of the Go runtime's timers, and random choices are
// seeded but their order is not fixed: only the simulator is reproducible.
// IPv4 only. Devices have an MTU of 1500 bytes or the link's, whichever is
// more; what is larger is fragmented by the sending kernel, as on real hosts,
// unless the socket forbids it, and a link with a smaller MTU drops in silence.
//
// Supports tells which NATs are possible here, by which means, and why others
// are not. NAT terms are those of RFC 4787.
package kernel

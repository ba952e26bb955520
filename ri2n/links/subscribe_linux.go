package links

import "github.com/vishvananda/netlink"

// subscribe has wake signalled when the kernel tells of a change to interfaces
// or addresses of the calling thread's network namespace. told is false where
// it does not. stop ends that.
func subscribe(wake chan<- struct{}) (stop func(), told bool) {
	done := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	if netlink.LinkSubscribe(links, done) != nil {
		return func() {}, false
	}
	go forward(links, wake) // they end when the library closes the channels
	if netlink.AddrSubscribe(addrs, done) != nil {
		close(done)
		return func() {}, false
	}
	go forward(addrs, wake)
	return func() { close(done) }, true
}

func forward[T any](updates <-chan T, wake chan<- struct{}) {
	for range updates {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

package kernel

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A namespace is a network namespace without a name and the thread that lives
// in it. It vanishes with its thread, its descriptor and whatever processes
// and sockets are inside: nothing is left to clean after a crash.
type namespace struct {
	fd      int // of the namespace
	calls   chan func()
	closing chan struct{}
	done    chan struct{}
}

// newNamespace makes a namespace with nothing but a loopback device that is up.
func newNamespace() (*namespace, error) {
	ns := &namespace{
		fd:      -1,
		calls:   make(chan func()),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	ready := make(chan error, 1)
	onThread(func() {
		defer close(ns.done)
		err := ns.enter()
		ready <- err
		if err != nil {
			return
		}
		for {
			select {
			case f := <-ns.calls:
				f()
			case <-ns.closing:
				return
			}
		}
	})
	if err := <-ready; err != nil {
		<-ns.done
		if ns.fd >= 0 {
			unix.Close(ns.fd)
		}
		return nil, err
	}
	return ns, nil
}

// enter moves the calling thread to a new namespace.
func (ns *namespace) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return notPermitted("making a network namespace", err)
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("kernel: open own network namespace: %w", err)
	}
	ns.fd = fd
	// Devices made from here on are IPv4 only and let asymmetric routes be.
	if err := setSysctl("net/ipv4/conf/all/rp_filter", "0"); err != nil {
		return err
	}
	if err := setSysctl("net/ipv4/conf/default/rp_filter", "0"); err != nil {
		return err
	}
	if err := setSysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil && !os.IsNotExist(err) {
		return err
	}
	return raiseLoopback()
}

// do runs f on the namespace's thread and returns its error. f must not block
// for long: others wait for the thread. After close it returns net.ErrClosed.
func (ns *namespace) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case ns.calls <- func() { result <- f() }:
		return <-result
	case <-ns.done:
		return net.ErrClosed
	}
}

// doBlocking runs f on a thread of its own inside the namespace; f may block.
func (ns *namespace) doBlocking(f func() error) error {
	// A descriptor of this call's own: ns.fd may be closed meanwhile.
	fd := -1
	err := ns.do(func() (err error) {
		fd, err = unix.FcntlInt(uintptr(ns.fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	onThread(func() {
		err := unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			result <- fmt.Errorf("kernel: enter network namespace: %w", err)
			return
		}
		result <- f()
	})
	return <-result
}

// close ends the thread, and with it the processes started on it. It is called
// once.
func (ns *namespace) close() {
	close(ns.closing)
	<-ns.done
	unix.Close(ns.fd)
}

// onThread runs f on a goroutine whose thread nobody else uses and which ends
// with f, so that f may leave it in any namespace. The process's main thread
// is spared: it cannot end, and /proc/self would show what f left.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// While this goroutine holds the main thread, another gets another.
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			f()
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}

// setSysctl writes a file below /proc/sys/net, which shows the namespace of
// the calling thread.
func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return notPermitted("writing /proc/sys", err)
	}
	return nil
}

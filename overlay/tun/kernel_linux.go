package tun

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// A kernelDevice is a TUN device as the library of wireguard-go makes it, which
// takes and gives packets in GSO bursts. Reading is the library's. Writing is
// ours: it merges without copying, where the library copies each packet to the
// end of another.
type kernelDevice struct {
	tun  tun.Device
	raw  syscall.RawConn
	name string
	mtu  int

	writing sync.Mutex // guards job
	job     writeJob
}

func openKernelDevice(name string, mtu int) (Device, error) {
	d, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, err
	}
	raw, err := d.File().SyscallConn()
	if err != nil {
		d.Close()
		return nil, err
	}
	// The library tells when the interface goes up or down, and waits if
	// nobody listens.
	go func() {
		for range d.Events() {
		}
	}()
	k := &kernelDevice{tun: d, raw: raw, name: name, mtu: mtu}
	k.job.call = k.job.write
	return k, nil
}

func (d *kernelDevice) Name() string { return d.name }
func (d *kernelDevice) MTU() int     { return d.mtu }

func (d *kernelDevice) Read(buffers [][]byte, sizes []int, room int) (int, error) {
	for {
		n, err := d.tun.Read(buffers, sizes, room)
		switch {
		case n > 0:
			return n, nil // what came beyond is too many segments
		case errors.Is(err, os.ErrClosed):
			return 0, net.ErrClosed
		case err != nil:
			return 0, err
		}
	}
}

// A writeJob is one call of Write: what the system calls need, and the function
// that makes them, so that nothing is allocated each time.
type writeJob struct {
	merger merger
	iovs   []unix.Iovec
	errno  syscall.Errno
	at     int // packets written
	call   func(fd uintptr) bool
}

// write writes what has been merged. False asks to be called again once the
// device takes more.
func (j *writeJob) write(fd uintptr) bool {
	for ; j.at < j.merger.count; j.at++ {
		x := &j.merger.merges[j.at]
		x.finish()
		j.iovs = j.iovs[:0]
		j.add(x.first)
		for _, b := range x.more {
			j.add(b)
		}
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&j.iovs[0])), uintptr(len(j.iovs)))
		switch errno {
		case 0:
		case unix.EAGAIN:
			return false
		case unix.EINTR:
			j.at--
		default:
			j.errno = errno // of this packet; the others may pass
		}
	}
	return true
}

func (j *writeJob) add(b []byte) {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	j.iovs = append(j.iovs, v)
}

func (d *kernelDevice) Write(packets [][]byte, offset int) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	j := &d.job
	for _, b := range packets {
		j.merger.add(b[offset-vnetRoom:])
	}
	j.at, j.errno = 0, 0
	err := d.raw.Write(j.call)
	j.merger.reset()
	clear(j.iovs)
	switch {
	case errors.Is(err, os.ErrClosed), j.errno == unix.EBADFD:
		return net.ErrClosed
	case err != nil:
		return err
	case j.errno != 0:
		return j.errno
	}
	return nil
}

func (d *kernelDevice) Close() error { return d.tun.Close() }

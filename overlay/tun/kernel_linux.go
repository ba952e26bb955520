package tun

import (
	"errors"
	"net"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
)

// A kernelDevice is a TUN device through the library that wireguard-go has for
// it, which takes and gives packets in GSO bursts.
type kernelDevice struct {
	tun  tun.Device
	name string
	mtu  int

	writing sync.Mutex // guards buffers
	buffers [][]byte   // with room for the library to merge packets in
}

func openKernelDevice(name string, mtu int) (Device, error) {
	d, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, err
	}
	// The library tells when the interface goes up or down, and waits if
	// nobody listens.
	go func() {
		for range d.Events() {
		}
	}()
	return &kernelDevice{tun: d, name: name, mtu: mtu}, nil
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

func (d *kernelDevice) Write(packets [][]byte, offset int) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	for len(d.buffers) < len(packets) {
		d.buffers = append(d.buffers, make([]byte, vnetRoom, vnetRoom+64<<10))
	}
	for i, b := range packets {
		d.buffers[i] = append(d.buffers[i][:vnetRoom], b[offset:]...)
	}
	_, err := d.tun.Write(d.buffers[:len(packets)], vnetRoom)
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

func (d *kernelDevice) Close() error { return d.tun.Close() }

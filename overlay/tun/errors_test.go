package tun

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// Every error says what it is about, what is wrong, and what to do.
func TestErrorsExplainThemselves(t *testing.T) {
	for _, tt := range []struct {
		err interface {
			error
			Object() string
			Cause() string
			Next() string
		}
		cause, next string
	}{
		{&DeviceError{"grid0", "making it", syscall.EPERM}, "CAP_NET_ADMIN", "sudo grid up --tun"},
		{&DeviceError{"grid0", "making it", syscall.EACCES}, "CAP_NET_ADMIN", "sudo grid up --tun"},
		{&DeviceError{"grid0", "making it", fs.ErrNotExist}, "/dev/net/tun", "modprobe tun"},
		{&DeviceError{"grid0", "making it", fs.ErrExist}, "exist", "--tun-name"},
		{&DeviceError{"grid0", "making it", syscall.EBUSY}, "busy", "ip addr"},
		{notHere("grid0").(*DeviceError), "unsupported", "without --tun"},
		{&OverlapError{netip.MustParsePrefix("100.90.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"), "tailscale0", true}, "route 100.64.0.0/10 through interface tailscale0", "--tun-ipv6-only"},
		{&OverlapError{netip.MustParsePrefix("100.90.0.0/16"), netip.MustParsePrefix("100.90.1.0/24"), "eth0", false}, "interface eth0", "--tun-ipv6-only"},
	} {
		if tt.err.Object() == "" || !strings.Contains(tt.err.Cause(), tt.cause) || !strings.Contains(tt.err.Next(), tt.next) {
			t.Errorf("%v: object %q, cause %q, next %q", tt.err, tt.err.Object(), tt.err.Cause(), tt.err.Next())
		}
		if !strings.Contains(tt.err.Error(), tt.err.Cause()) {
			t.Errorf("%v does not say %q", tt.err, tt.err.Cause())
		}
	}
	if err := notHere("grid0"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v is not errors.ErrUnsupported", err)
	}
}

package hostnet

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Received returns how many bytes a device has received.
func Received(device string) (uint64, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", device, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return 0, fmt.Errorf("device %s has no statistics", device)
	}
	return s.RxBytes, nil
}

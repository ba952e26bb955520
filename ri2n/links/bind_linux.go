package links

import "golang.org/x/sys/unix"

// bindToInterface has the socket use one interface only. A kernel before 5.7
// asks for privileges; without them the address decides.
func bindToInterface(fd uintptr, name string) {
	_ = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name)
}

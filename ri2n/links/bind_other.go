//go:build !linux

package links

func bindToInterface(uintptr, string) {}

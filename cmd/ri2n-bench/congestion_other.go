//go:build !linux

package main

import "errors"

func setCongestion(uintptr, string) error { return errors.ErrUnsupported }

//go:build !linux

package main

import "errors"

func stayOn(int) error { return errors.ErrUnsupported }

//go:build !linux

package main

import "errors"

func residentSize() (int64, error) { return 0, errors.ErrUnsupported }

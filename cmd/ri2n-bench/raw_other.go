//go:build !linux

package main

// rawContenders returns those that need Linux's segmentation offload.
func rawContenders() []contender { return nil }

//go:build !linux

package main

func clockSynchronised() (yes, known bool) { return false, false }

func checkOffloads() []checkResult {
	return one("offloads", checkSkipped, "", "only Linux has those that are used")
}

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A byteSize is a flag such as 1GiB or 500MB.
type byteSize int64

var sizeUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	for _, u := range sizeUnits {
		if digits, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := quantity(digits, u.factor)
			if err != nil {
				return fmt.Errorf("%q is not a size such as 1GiB", s)
			}
			*b = byteSize(v)
			return nil
		}
	}
	return nil
}

func (b *byteSize) String() string {
	for _, u := range []struct {
		suffix string
		factor byteSize
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if *b != 0 && *b%u.factor == 0 {
			return strconv.FormatInt(int64(*b/u.factor), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(*b), 10) + "B"
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "SIZE" }

// A byteRate is a flag such as 100Mbit/s, in bytes a second.
type byteRate int64

var rateUnits = []struct {
	suffix string
	factor float64
}{
	{"Gbit/s", 1e9 / 8}, {"Mbit/s", 1e6 / 8}, {"kbit/s", 1e3 / 8}, {"bit/s", 1.0 / 8},
	{"GB/s", 1e9}, {"MB/s", 1e6}, {"kB/s", 1e3}, {"B/s", 1},
}

// Set implements pflag.Value.
func (r *byteRate) Set(s string) error {
	if s == "0" {
		*r = 0
		return nil
	}
	for _, u := range rateUnits {
		if digits, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := quantity(digits, u.factor)
			if err != nil {
				break
			}
			*r = byteRate(v)
			return nil
		}
	}
	return fmt.Errorf("%q is not a rate such as 100Mbit/s or 10MB/s", s)
}

func (r *byteRate) String() string {
	bits := 8 * int64(*r)
	for _, u := range []struct {
		suffix string
		factor int64
	}{{"Gbit/s", 1e9}, {"Mbit/s", 1e6}, {"kbit/s", 1e3}} {
		if bits != 0 && bits%u.factor == 0 {
			return strconv.FormatInt(bits/u.factor, 10) + u.suffix
		}
	}
	if bits == 0 {
		return "0"
	}
	return strconv.FormatInt(bits, 10) + "bit/s"
}

// Type implements pflag.Value.
func (r *byteRate) Type() string { return "RATE" }

// quantity returns digits times factor, in whole units.
func quantity(digits string, factor float64) (int64, error) {
	v, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if err != nil || !(v >= 0) || v*factor > math.MaxInt64/16 {
		return 0, fmt.Errorf("%q is no quantity", digits)
	}
	return int64(v * factor), nil
}

package punch

import "fmt"

// An Allocation says how a NAT picks the outside port of a new mapping
// (RFC 4787, section 4.2). The zero value says that it was not measured.
type Allocation uint8

const (
	// AllocationPreserving: the inside port.
	AllocationPreserving Allocation = iota + 1
	// AllocationSequential: a fixed step from the port before.
	AllocationSequential
	// AllocationRandom: none of these; the ports lie in a range.
	AllocationRandom
)

var allocationNames = [...]string{"unknown", "preserving", "sequential", "random"}

// String returns "unknown", "preserving", "sequential" or "random".
func (a Allocation) String() string {
	if int(a) < len(allocationNames) {
		return allocationNames[a]
	}
	return fmt.Sprintf("allocation %d", uint8(a))
}

// MarshalText implements [encoding.TextMarshaler].
func (a Allocation) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; it accepts what
// [Allocation.String] returns.
func (a *Allocation) UnmarshalText(b []byte) error {
	for i, name := range allocationNames {
		if name == string(b) {
			*a = Allocation(i)
			return nil
		}
	}
	return fmt.Errorf("punch: %q is no allocation of ports", b)
}

// A PortSample is the port of a fresh socket and that of its first mapping.
type PortSample struct {
	Local  uint16 `json:"local"`
	Mapped uint16 `json:"mapped"`
}

// Ports is what is known of a NAT's choice of outside ports.
type Ports struct {
	Allocation Allocation `json:"allocation"`
	// Delta is the step of sequential allocation, Next the port that the next
	// mapping gets if nobody else's comes first.
	Delta int16  `json:"delta,omitempty"`
	Next  uint16 `json:"next,omitempty"`
	// Low and High bound the ports that mappings are thought to have: the
	// block that all samples fell in, or everything from 1024 on.
	Low  uint16 `json:"low,omitempty"`
	High uint16 `json:"high,omitempty"`
	// Parity says whether even ports are mapped to even ones and odd to odd
	// (RFC 4787, section 4.2.2).
	Parity Finding `json:"parity_preserving"`
}

const (
	// minPortSamples is how many samples say anything.
	minPortSamples = 3
	// maxPortSteps is how many steps of sequential allocation may lie between
	// two samples: the neighbors' mappings.
	maxPortSteps = 16
	// maxPortStep is the largest step taken for one; carriers' NATs have been
	// seen with steps of some ten.
	maxPortStep = 64
	// leastBlock and mostBlock bound the port blocks of carriers' NATs
	// (RFC 7422 and what they advertise).
	leastBlock = 64
	mostBlock  = 4096
)

// ClassifyPorts derives the allocation from samples in the order in which their
// mappings were made. Fewer than three say nothing.
func ClassifyPorts(samples []PortSample) Ports {
	if len(samples) < minPortSamples {
		return Ports{}
	}
	preserved, parity := true, true
	for _, s := range samples {
		preserved = preserved && s.Local == s.Mapped
		parity = parity && s.Local%2 == s.Mapped%2
	}
	p := Ports{Allocation: AllocationRandom, Low: leastPort, High: 65535}
	p.Low, p.High = portBlock(samples)
	switch delta := portStep(samples); {
	case preserved:
		p.Allocation = AllocationPreserving
		p.Parity = Yes
	case delta != 0:
		p.Allocation, p.Delta = AllocationSequential, int16(delta)
		p.Next = uint16(int(samples[len(samples)-1].Mapped) + delta)
		p.Parity = No
	default:
		// Half of all pairs of ports agree by chance.
		p.Parity = NotMeasured
		if !parity {
			p.Parity = No
		} else if len(samples) >= 8 {
			p.Parity = Yes
		}
	}
	return p
}

// portStep returns the step that explains all samples, zero if there is none:
// each port is a few steps from the one before, all in one direction.
func portStep(samples []PortSample) int {
	step := 0
	for i, s := range samples[1:] {
		d := int(s.Mapped) - int(samples[i].Mapped)
		if step == 0 || d != 0 && abs(d) < abs(step) {
			step = d
		}
	}
	if step == 0 || abs(step) > maxPortStep {
		return 0
	}
	for i, s := range samples[1:] {
		d := int(s.Mapped) - int(samples[i].Mapped)
		if d%step != 0 || d/step < 1 || d/step > maxPortSteps {
			return 0
		}
	}
	return step
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// portBlock returns the range that the ports of mappings are thought to lie in.
// Five ports of a range of 64,512 fall in a block of 4096 once in ten thousand
// times, so then there is a block.
func portBlock(samples []PortSample) (low, high uint16) {
	least, most := int(samples[0].Mapped), int(samples[0].Mapped)
	for _, s := range samples {
		least, most = min(least, int(s.Mapped)), max(most, int(s.Mapped))
	}
	spread := most - least + 1
	if len(samples) < 5 || spread > mostBlock {
		return leastPort, 65535
	}
	size := leastBlock
	for size < spread*5/4 {
		size *= 2
	}
	// Blocks of a power of two usually begin at a multiple of themselves; where
	// the samples cross such a border, they may begin anywhere.
	if begin := least / size * size; most < begin+size {
		return uint16(max(begin, leastPort)), uint16(begin + size - 1)
	}
	return uint16(max(most-size, leastPort)), uint16(min(least+size, 65535))
}

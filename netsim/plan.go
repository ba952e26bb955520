package netsim

// A NodeAddress is what the address plan gives to one node.
type NodeAddress = nodeAddress

// Addresses returns the address of each node of the scenario, by name. Both
// back ends use these. The error is that of Validate.
func (sc Scenario) Addresses() (map[string]NodeAddress, error) {
	if err := sc.Validate(); err != nil {
		return nil, err
	}
	return sc.addresses()
}

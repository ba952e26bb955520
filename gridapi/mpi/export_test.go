package mpi

// What tests of this package share with those of package mpi_test.
var (
	Endure  = endure
	Failure = failure
)

// The bytes of a mesh, for tests that speak for a rank.
const (
	HelloLen   = helloLen
	WelcomeLen = welcomeLen
	MaxHellos  = maxHellos
)

// Hello returns the opening of a connection.
func Hello(job [32]byte, epoch, size, from, to, incarnation uint32) []byte {
	return appendHello(nil, hello{job, epoch, size, from, to, incarnation})
}

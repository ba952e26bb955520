package ri2n

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a goroutine outlives the endpoints and networks that the
// tests close.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

package ri2n

import (
	"testing"
	"time"
)

// RFC 9002, section 5.3.
func TestRTTSample(t *testing.T) {
	type sample struct{ latest, delay time.Duration }
	for _, tt := range []struct {
		name    string
		samples []sample
		want    rttEstimator
	}{
		{"first ignores the delay", []sample{{100 * ms, 20 * ms}},
			rttEstimator{100 * ms, 100 * ms, 50 * ms, 100 * ms, 1, false}},
		{"delay is taken off", []sample{{100 * ms, 0}, {140 * ms, 20 * ms}},
			rttEstimator{140 * ms, 102500 * time.Microsecond, 42500 * time.Microsecond, 100 * ms, 2, false}},
		{"delay beyond the limit is not believed", []sample{{100 * ms, 0}, {180 * ms, time.Hour}},
			rttEstimator{180 * ms, 106875 * time.Microsecond, 51250 * time.Microsecond, 100 * ms, 2, false}},
		{"delay does not go below min", []sample{{100 * ms, 0}, {110 * ms, 20 * ms}},
			rttEstimator{110 * ms, 101250 * time.Microsecond, 40 * ms, 100 * ms, 2, false}},
		{"min ignores the delay", []sample{{100 * ms, 0}, {60 * ms, 20 * ms}},
			rttEstimator{60 * ms, 95 * ms, 47500 * time.Microsecond, 60 * ms, 2, false}},
		{"negative delay", []sample{{100 * ms, 0}, {100 * ms, -time.Hour}},
			rttEstimator{100 * ms, 100 * ms, 37500 * time.Microsecond, 100 * ms, 2, false}},
		{"never zero", []sample{{-ms, 0}},
			rttEstimator{time.Microsecond, time.Microsecond, 500, time.Microsecond, 1, false}},
	} {
		var r rttEstimator
		for _, s := range tt.samples {
			r.sample(s.latest, s.delay, 25*ms)
		}
		if r != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, r, tt.want)
		}
	}
}

func TestRTTReset(t *testing.T) {
	var r rttEstimator
	r.sample(20*ms, 0, 0)
	if r.srtt() != 20*ms || r.pto(5*ms) != 65*ms {
		t.Errorf("srtt = %v, PTO = %v, want 20ms, 65ms", r.srtt(), r.pto(5*ms))
	}
	r.reset()
	if r.srtt() != initialRTT || r.pto(0) != 3*initialRTT {
		t.Errorf("after reset: srtt = %v, PTO = %v, want %v, %v", r.srtt(), r.pto(0), initialRTT, 3*initialRTT)
	}
}

// TestRTTOutdated: after silence the estimate does not remember the queue of
// before, which would put a time-out off by four times the difference.
func TestRTTOutdated(t *testing.T) {
	var r rttEstimator
	r.outdate() // of nothing
	r.sample(20*ms, 0, 0)
	for range 100 {
		r.sample(120*ms, 0, 0)
	}
	r.outdate()
	if r.srtt() < 110*ms {
		t.Errorf("srtt = %v before there is a sample, want what it was", r.srtt())
	}
	r.sample(22*ms, 0, 0)
	if r.srtt() != 22*ms || r.pto(5*ms) != 71*ms || r.min != 20*ms {
		t.Errorf("srtt = %v, PTO = %v, min = %v, want 22ms, 71ms, 20ms", r.srtt(), r.pto(5*ms), r.min)
	}
	r.sample(22*ms, 0, 0)
	if r.variance != 11*ms*3/4 {
		t.Errorf("rttvar = %v, want %v: only one sample begins anew", r.variance, 11*ms*3/4)
	}
}

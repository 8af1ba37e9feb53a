package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mlsfed/mlsfed/wire"
)

// How a session ends that no wire.CloseCode ends, as RFC 6455 §7.4.1 numbers it.
const (
	closeNormal wire.CloseCode = 1000 // the device said so
	closeLost   wire.CloseCode = 1006 // the connection broke
)

// metrics are what a gateway counts. Labels have a bounded number of values.
type metrics struct {
	sessions prometheus.Gauge
	logins   *prometheus.CounterVec   // result: accepted, refused
	frames   *prometheus.CounterVec   // direction: in, out
	bytes    *prometheus.CounterVec   // direction
	closes   *prometheus.CounterVec   // code
	requests *prometheus.CounterVec   // method, code: "" for one that was answered
	seconds  *prometheus.HistogramVec // method
	refused  *prometheus.CounterVec   // limit: what was over it
	panics   prometheus.Counter
}

// The values of the label limit, one for each bound that refuses something.
const (
	overConnects      = "connects"
	overSockets       = "sockets"
	overSessions      = "sessions"
	overOfAddress     = "sessions_of_address"
	overOfDevice      = "sessions_of_device"
	overLoginsAddress = "logins_of_address"
	overLoginsDevice  = "logins_of_device"
	overEnrol         = "enrolments"
	overEnrolBody     = "enrolment_bytes"
	overFrame         = "frame_bytes"
	overFrames        = "frames"
	overFragments     = "fragments"
	overLoginFrames   = "login_frames"
	overHTTP          = "http_requests"
	overHTTPBody      = "http_body"
	overBytes         = "bytes"
	overRequests      = "requests"
	overHeld          = "request_bytes"
	overHeldOfUser    = "request_bytes_of_user"
	overUnsentOfUser  = "unsent_bytes_of_user"
	overOrigin        = "origin"
)

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "mlsfed", Subsystem: "gateway", Name: name, Help: help}, labels)
	}
	m := &metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "mlsfed", Subsystem: "gateway", Name: "sessions", Help: "Sessions of devices that are logged in."}),
		logins:   counter("logins_total", "Logins by result.", "result"),
		frames:   counter("frames_total", "Frames of sessions by direction.", "direction"),
		bytes:    counter("bytes_total", "Bytes of the frames of sessions by direction.", "direction"),
		closes:   counter("closes_total", "Sessions that ended, by close code.", "code"),
		requests: counter("requests_total", "Requests by method and the code of the error that answered them, none if they were served.", "method", "code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "mlsfed", Subsystem: "gateway", Name: "request_seconds",
			Help: "Time from the arrival of a request until it was served, by method.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"method"}),
		refused: counter("refused_total", "Requests, frames and connections that a limit has refused or slowed, by limit.", "limit"),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "mlsfed", Subsystem: "gateway", Name: "panics_total",
			Help: "Requests that ended by a fault of the node; the log has the place of each."}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.sessions, m.logins, m.frames, m.bytes, m.closes, m.requests, m.seconds, m.refused, m.panics} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) over(limit string) { m.refused.WithLabelValues(limit).Inc() }

func (m *metrics) frame(direction string, size int) {
	m.frames.WithLabelValues(direction).Inc()
	m.bytes.WithLabelValues(direction).Add(float64(size))
}

func (m *metrics) closed(code wire.CloseCode) {
	m.closes.WithLabelValues(strconv.Itoa(int(code))).Inc()
}

// request counts one that was answered after took. Its method is known: others are counted as "unknown".
func (m *metrics) request(method string, err error, took time.Duration) {
	code := wire.CodeOf(err)
	if code != "" && !code.Known() {
		code = "other" // of another organization's node
	}
	m.requests.WithLabelValues(method, string(code)).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

package wire

import "time"

// LimitsAnswer says what a node lets one session do, so that a device keeps within it and is not cut off. Rates are token
// buckets, full at the login. Numbers of 0 are not sent by this node, and a device that meets one has no limit to keep.
type LimitsAnswer struct {
	FrameBurst  uint64 `cbor:"1,keyasint"`  // frames at once: requests, pings, pongs, small fragments, and acks that make no room
	FrameMicros uint64 `cbor:"2,keyasint"`  // microseconds after which there can be one more; over it, the session ends with CloseFlood
	ByteBurst   uint64 `cbor:"3,keyasint"`  // bytes at once
	ByteRate    uint64 `cbor:"4,keyasint"`  // bytes a second; over it, the node reads more slowly
	Fragments   uint64 `cbor:"5,keyasint"`  // WebSocket frames of one message
	Held        uint64 `cbor:"6,keyasint"`  // bytes of requests under way, and of their answers
	Overloads   uint64 `cbor:"7,keyasint"`  // refusals with Busy in a row, for requests or bytes under way, after which the session ends
	Sessions    uint64 `cbor:"8,keyasint"`  // of one device
	Request     uint64 `cbor:"9,keyasint"`  // milliseconds in which a request is served
	Ping        uint64 `cbor:"10,keyasint"` // milliseconds between the node's pings
	Silence     uint64 `cbor:"11,keyasint"` // milliseconds without a sign of the device after which the session ends
	Content     uint64 `cbor:"12,keyasint"` // bytes of the content of an application message
}

// FrameEvery is the pause after which there can be one more frame.
func (a *LimitsAnswer) FrameEvery() time.Duration {
	return time.Duration(min(a.FrameMicros, maxPause)) * time.Microsecond
}

// maxPause bounds FrameEvery: an hour.
const maxPause = uint64(time.Hour / time.Microsecond)

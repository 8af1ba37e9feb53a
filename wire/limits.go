package wire

import "time"

// LimitsAnswer describes the limits of one session at a node, so that a device keeps within them and is not
// disconnected. Rates are token buckets, full at the login. This node never sends 0; a device that receives 0 has no
// limit to keep.
type LimitsAnswer struct {
	FrameBurst  uint64 `cbor:"1,keyasint"`  // burst of frames: requests, pings, pongs, small fragments, and acks that make no room
	FrameMicros uint64 `cbor:"2,keyasint"`  // microseconds until one more frame is allowed; over the limit, the session ends with CloseFlood
	ByteBurst   uint64 `cbor:"3,keyasint"`  // burst of bytes
	ByteRate    uint64 `cbor:"4,keyasint"`  // bytes per second; over the limit, the node reads more slowly
	Fragments   uint64 `cbor:"5,keyasint"`  // WebSocket frames of one message
	Held        uint64 `cbor:"6,keyasint"`  // bytes of concurrent requests, and of their answers
	Overloads   uint64 `cbor:"7,keyasint"`  // consecutive refusals with Busy, for concurrent requests or bytes, after which the session ends
	Sessions    uint64 `cbor:"8,keyasint"`  // sessions of one device
	Request     uint64 `cbor:"9,keyasint"`  // milliseconds in which the node serves a request
	Ping        uint64 `cbor:"10,keyasint"` // milliseconds between the node's pings
	Idle        uint64 `cbor:"11,keyasint"` // milliseconds without data from the device after which the session ends
	Content     uint64 `cbor:"12,keyasint"` // bytes of the content of an application message
}

// FrameEvery returns the time until one more frame is allowed.
func (a *LimitsAnswer) FrameEvery() time.Duration {
	return time.Duration(min(a.FrameMicros, maxPause)) * time.Microsecond
}

// maxPause bounds FrameEvery: an hour.
const maxPause = uint64(time.Hour / time.Microsecond)

package gateway

import "github.com/mlsfed/mlsfed/wire"

// bodyOf makes an empty structure for what a method takes, nil for nothing. ok is false for a method that
// is unknown.
func bodyOf(m wire.Method) (body any, ok bool) {
	switch m {
	case wire.MethodUpload:
		return new(wire.UploadRequest), true
	case wire.MethodAddress:
		return new(wire.AddressRequest), true
	case wire.MethodRefuse:
		return new(wire.RefuseRequest), true
	case wire.MethodKeyMaterial:
		return new(wire.KeyMaterialRequest), true
	case wire.MethodUpdate:
		return new(wire.Envelope), true
	case wire.MethodSubmit:
		return new(wire.Message), true
	case wire.MethodEntries:
		return new(wire.EntriesRequest), true
	case wire.MethodGroupInfo:
		return new(wire.GroupInfoRequest), true
	case wire.MethodDownload:
		return new(wire.DownloadRequest), true
	case wire.MethodPutBlob:
		return new(wire.PutBlobRequest), true
	case wire.MethodInvite:
		return new(wire.InviteRequest), true
	case wire.MethodRevoke:
		return new(wire.RevokeRequest), true
	case wire.MethodFeatures:
		return new(wire.FeaturesRequest), true
	case wire.MethodDelivery:
		return new(wire.DeliveryRequest), true
	case wire.MethodPolicy:
		return new(wire.PolicyRequest), true
	case wire.MethodWaiting:
		return new(wire.WaitingRequest), true
	case wire.MethodRevocations:
		return new(wire.RevocationsRequest), true
	case wire.MethodCount, wire.MethodConversations, wire.MethodDevices, wire.MethodRenew, wire.MethodOrganizations, wire.MethodLimits,
		wire.MethodDiscard:
		return nil, true
	}
	return nil, false
}

// decodeBody reads what a method takes.
func decodeBody(m wire.Method, b []byte) (any, error) {
	body, ok := bodyOf(m)
	switch {
	case !ok:
		return nil, wire.Errorf(wire.Version, "request", "method %.40q is unknown to this node", m)
	case body == nil && len(b) > 0:
		return nil, wire.Errorf(wire.Malformed, string(m), "takes nothing, but has a body of %d bytes", len(b))
	case body == nil:
		return nil, nil
	}
	return body, wire.Decode(b, len(b), body)
}

// laneOf is the conversation in whose lane a request is served: what submits to it is not to be overtaken.
func laneOf(body any) wire.ConversationID {
	switch b := body.(type) {
	case *wire.Envelope:
		return b.Conversation
	case *wire.Message:
		return b.Conversation
	}
	return ""
}

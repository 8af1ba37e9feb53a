package wire

// methods is the table of a session's methods: the structure of the request's body, or nil for none, and whether
// serving the method needs space on the disk. Gateway and node both read it.
var methods = map[Method]struct {
	request func() any
	writes  bool
}{
	MethodUpload:            {request: body[UploadRequest], writes: true},
	MethodAddress:           {request: body[AddressRequest], writes: true},
	MethodRefuse:            {request: body[RefuseRequest]},
	MethodCount:             {},
	MethodDiscard:           {},
	MethodKeyMaterial:       {request: body[KeyMaterialRequest]},
	MethodUpdate:            {request: body[Envelope], writes: true},
	MethodSubmit:            {request: body[Message], writes: true},
	MethodEntries:           {request: body[EntriesRequest]},
	MethodGroupInfo:         {request: body[GroupInfoRequest]},
	MethodDownload:          {request: body[DownloadRequest]},
	MethodPutBlob:           {request: body[PutBlobRequest], writes: true},
	MethodConversations:     {},
	MethodDevices:           {},
	MethodInvite:            {request: body[InviteRequest], writes: true},
	MethodRevoke:            {request: body[RevokeRequest]},
	MethodRenew:             {writes: true},
	MethodOrganizations:     {},
	MethodFeatures:          {request: body[FeaturesRequest]},
	MethodDelivery:          {request: body[DeliveryRequest]},
	MethodPolicy:            {request: body[PolicyRequest]},
	MethodWaiting:           {request: body[WaitingRequest]},
	MethodLimits:            {},
	MethodRevocations:       {request: body[RevocationsRequest]},
	MethodOrganizationsPage: {request: body[OrganizationsPageRequest]},
	MethodRevocationsPage:   {request: body[RevocationsPageRequest]},
}

func body[T any]() any { return new(T) }

// Methods returns the methods of a session, in no particular order.
func Methods() []Method {
	all := make([]Method, 0, len(methods))
	for m := range methods {
		all = append(all, m)
	}
	return all
}

// Known reports whether m is a method of a session.
func (m Method) Known() bool {
	_, known := methods[m]
	return known
}

// Request returns a pointer to an empty structure of the type of m's request body, or nil if the method has none or
// is unknown.
func (m Method) Request() any {
	if row := methods[m]; row.request != nil {
		return row.request()
	}
	return nil
}

// Writes reports whether serving m needs space on the node's disk.
func (m Method) Writes() bool { return methods[m].writes }

// DecodeRequest decodes the body of a request of m. It returns nil for a method without a body. The error is Version
// for an unknown method, and Malformed for a body that does not decode or should be empty.
func (m Method) DecodeRequest(b []byte) (any, error) {
	if !m.Known() {
		return nil, Errorf(Version, "request", "method %.40q is unknown to this node", m)
	}
	request := m.Request()
	switch {
	case request == nil && len(b) > 0:
		return nil, Errorf(Malformed, string(m), "takes nothing, but has a body of %d bytes", len(b))
	case request == nil:
		return nil, nil
	}
	return request, Decode(b, len(b), request)
}

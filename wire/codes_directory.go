package wire

// Codes of the directory.
const (
	Denied   Code = "denied"    // the invitation, token, certificate or proof is not accepted: ask for another one
	NotFound Code = "not_found" // no such user or device: check the name
	NoneLeft Code = "none_left" // no device of the user has a KeyPackage of this suite: try again after one was online
)

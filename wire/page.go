package wire

import "crypto/sha256"

// Lists without a bound of their own come in pages: each page fits a frame.

// MaxRevocationList bounds the revocation list of an organization, in bytes: about 900,000 certificates.
const MaxRevocationList = 32 << 20

// OrganizationsPageRequest asks for admitted organizations, in the order of their names.
type OrganizationsPageRequest struct {
	After Domain `cbor:"1,keyasint,omitempty"` // the page begins after this name; none for the first page
	Known Hash   `cbor:"2,keyasint"`           // the List that the device has whole; zero for none
}

// Check refuses an invalid name.
func (r *OrganizationsPageRequest) Check() error {
	if r.After == "" {
		return nil
	}
	if err := r.After.Check(); err != nil {
		return Errorf(Malformed, "organizations", "%v", err)
	}
	return nil
}

// OrganizationsPage holds organizations in the order of their names; none if the device has the whole list.
type OrganizationsPage struct {
	List          Hash           `cbor:"1,keyasint"` // a hash over the whole list, which changes with it
	Organizations []Organization `cbor:"2,keyasint"`
	More          bool           `cbor:"3,keyasint,omitempty"` // more organizations follow after the last one
}

// Check refuses organizations that are out of order, and an empty page with More set.
func (p *OrganizationsPage) Check() error {
	if p.More && len(p.Organizations) == 0 {
		return Errorf(Malformed, "organizations", "an empty page before others")
	}
	for i, o := range p.Organizations {
		if err := o.Domain.Check(); err != nil {
			return Errorf(Malformed, "organizations", "%v", err)
		}
		if i > 0 && p.Organizations[i-1].Domain >= o.Domain {
			return Errorf(Malformed, "organizations", "%s is out of order", o.Domain)
		}
	}
	return nil
}

// RevocationsPageRequest asks for a part of the revocation list of an organization.
type RevocationsPageRequest struct {
	Domain Domain `cbor:"1,keyasint"`
	List   Hash   `cbor:"2,keyasint"` // SHA-256 of the list whose beginning the requester has; zero for none
	Offset uint64 `cbor:"3,keyasint"` // the number of bytes of it that the requester has
}

// Check refuses an invalid name, and an offset without a list.
func (r *RevocationsPageRequest) Check() error {
	if err := r.Domain.Check(); err != nil {
		return Errorf(Malformed, "revocations", "%v", err)
	}
	if r.Offset > MaxRevocationList || r.Offset > 0 && r.List == (Hash{}) {
		return Errorf(Malformed, "revocations", "offset %d of list %v", r.Offset, r.List)
	}
	return nil
}

// RevocationsPage is a part of a certificate revocation list (RFC 5280 §5), DER. It begins at Offset. Offset is 0 if
// the list is not the requested one: there is a newer list.
type RevocationsPage struct {
	List   Hash   `cbor:"1,keyasint"` // SHA-256 of the whole list
	Size   uint64 `cbor:"2,keyasint"` // size of the whole list, in bytes
	Offset uint64 `cbor:"3,keyasint"`
	Part   []byte `cbor:"4,keyasint"` // at least one byte, unless the requester has the whole list
}

// Check refuses a part that is not within the list, or that makes no progress.
func (p *RevocationsPage) Check() error {
	n := uint64(len(p.Part))
	if p.Size == 0 || p.Size > MaxRevocationList || p.Offset > p.Size || n > p.Size-p.Offset || n == 0 && p.Offset < p.Size {
		return Errorf(Malformed, "revocations", "%d bytes at offset %d of a list of %d, at most %d", n, p.Offset, p.Size, MaxRevocationList)
	}
	return nil
}

// PageOfRevocations answers r with a part of list of at most size bytes.
func PageOfRevocations(list []byte, r *RevocationsPageRequest, size int) (*RevocationsPage, error) {
	if len(list) > MaxRevocationList {
		return nil, Errorf(TooLarge, "revocations", "the list of %s has %d bytes, at most %d", r.Domain, len(list), MaxRevocationList)
	}
	p := &RevocationsPage{List: sha256.Sum256(list), Size: uint64(len(list))}
	if r.List == p.List && r.Offset <= p.Size {
		p.Offset = r.Offset
	}
	rest := list[p.Offset:]
	p.Part = rest[:min(size, len(rest))]
	return p, nil
}

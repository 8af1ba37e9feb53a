// Package scim is the part of SCIM 2.0 (RFC 7643, RFC 7644) by which an identity provider says which users an
// organization has: resources of type User with userName, externalId and active.
//
// A user's id is the name that the user has in the organization. Other attributes of a user are accepted and not
// kept. Groups, bulk operations, sorting and versions are not supported, and the service provider configuration says
// so.
package scim

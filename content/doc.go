// Package content encodes and decodes the content of application messages in the format of draft-ietf-mimi-content.
// Comments cite sections of that draft as "§4.4".
//
// A Content has a random salt, a few fields that relate it to other messages, extension fields, and a body. The body is
// a Part: nothing, one inline part, one external part, or several parts. [Content.Kind] reports the meaning of a
// decoded content; functions such as Text, Reply and Reaction make one.
//
// The package is pure: no files, no network, no clock, no randomness. The caller gives the salt and the time. No
// function of this package keeps or changes a slice that the caller passed to Decode.
//
// The page docs/spec/content.md specifies the limits and the private fields and numbers of this project.
package content

// Draft names the version of the draft that this package implements.
const Draft = "draft-ietf-mimi-content-08"

// Media types that each device can receive (§7.1).
const (
	MediaType = "application/mimi-content" // an encoded Content
	PlainText = "text/plain;charset=utf-8"
	Markdown  = "text/markdown;variant=GFM-MIMI"
)

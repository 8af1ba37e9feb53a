// Package mlsclient is the generated code of mls_client.proto.
package mlsclient

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative mls_client.proto

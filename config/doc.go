// Package config reads the configuration of a node: one YAML file, and environment variables that override it.
//
// [Load] reads and checks. An unknown key is an error with its line, so that a misspelled key does not silently mean
// the default. [Example] is the annotated file with every key and its default; a test compares it with the structure.
// The variable of a key is MLSFED_ and its path in capitals: gateway.listen is MLSFED_GATEWAY_LISTEN.
package config

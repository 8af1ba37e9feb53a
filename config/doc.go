// Package config is what an operator sets of a node: one YAML file, and environment variables that
// override it.
//
// [Load] reads and checks. A key that it does not know is an error with its line, so that a slip of the
// pen does not silently mean the default. [Example] is the annotated file with every key and its default;
// a test holds it against the structure. The variable of a key is MLSFED_ and its path in capitals:
// gateway.listen is MLSFED_GATEWAY_LISTEN.
package config

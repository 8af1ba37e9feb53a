// Package bridge gives the packages below mlscore that make test vectors and measure mlscore access to unexported
// code of mlscore, without a public API for it.
package bridge

// Inside is a value of an unexported type of package mlscore, which sets Inside when it is initialized. A package
// that needs a method of the value asserts an interface that has only this method: the linker then leaves the other
// methods, and the code that only they use, out of a program.
var Inside any

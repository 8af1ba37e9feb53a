package mlscore

import "github.com/mlsfed/mlsfed/mlscore/internal/bridge"

// inside is the access of the packages mlscore/vectors and mlscore/mlsbench to this package: see package bridge.
// Nothing in mlscore calls its methods.
type inside struct{}

func init() { bridge.Inside = inside{} }

// MakeVectors is for vectors.Make.
func (inside) MakeVectors(seed []byte, suites []CipherSuite) (map[string][]byte, error) {
	return makeVectors(seed, suites)
}

// VerifyVectors is for vectors.Verify and vectors.VerifyFile.
func (inside) VerifyVectors(file string, data []byte, read func(string) ([]byte, error), each func(at int, cs CipherSuite, err error)) (format string, err error) {
	return verifyVectors(file, data, read, each)
}

// Fabricate is for mlsbench.Fabricate.
func (inside) Fabricate(n int, clients [2]*Client, ids [2]Identity, groupID []byte, opts GroupOptions) (first, last *Group, err error) {
	return fabricate(n, clients, ids, groupID, opts)
}

// NewPrimitives is for mlsbench.NewPrimitives.
func (inside) NewPrimitives(cs CipherSuite) (any, error) { return newPrimitives(cs) }

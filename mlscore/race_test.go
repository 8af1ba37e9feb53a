//go:build race

package mlscore

// raceDetector is true if the tests run with -race, which makes the curves P-384 and P-521 thirty times slower:
// crypto/internal/fips140 implements them in Go.
const raceDetector = true

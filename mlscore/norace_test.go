//go:build !race

package mlscore

const raceDetector = false

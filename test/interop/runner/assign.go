package runner

import (
	"fmt"
	"math/rand/v2"
)

// Assignments assigns roles to peers in at most most different ways: entry i of an assignment is the peer that plays
// actor i. It returns all ways if there are no more; otherwise first the ways in which the peers take turns, then
// random ones. No two are equal.
func Assignments(peers, actors, most int, random *rand.Rand) [][]int {
	if peers <= 0 || most <= 0 {
		return nil
	}
	all := 1
	for range actors {
		if all *= peers; all > most {
			all = most + 1
			break
		}
	}
	var list [][]int
	if all <= most {
		for n := range all {
			one := make([]int, actors)
			for i := range one {
				one[i] = n % peers
				n /= peers
			}
			list = append(list, one)
		}
		return list
	}
	seen := map[string]bool{}
	add := func(one []int) {
		if key := fmt.Sprint(one); !seen[key] && len(list) < most {
			seen[key] = true
			list = append(list, one)
		}
	}
	for turn := range peers {
		one := make([]int, actors)
		for i := range one {
			one[i] = (turn + i) % peers
		}
		add(one)
	}
	for len(list) < most { // there are more ways than that
		one := make([]int, actors)
		for i := range one {
			one[i] = random.IntN(peers)
		}
		add(one)
	}
	return list
}

// Package disktest gives tests a disk that is small, and files that may not grow.
package disktest

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/charmbracelet/x/term"
	"rsc.io/qr"
)

// qrLines draws a QR code with half blocks, two modules in a cell, with one light module around it. Light is the colour of
// text, so that it is right on a dark terminal; most readers take it the other way round too.
func qrLines(text string) ([]string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, err
	}
	light := func(x, y int) bool { return y <= code.Size && !code.Black(x, y) } // outside of it nothing is black
	var lines []string
	for y := -1; y <= code.Size; y += 2 {
		var b strings.Builder
		for x := -1; x <= code.Size; x++ {
			switch top, bottom := light(x, y), light(x, y+1); {
			case top && bottom:
				b.WriteRune('█')
			case top:
				b.WriteRune('▀')
			case bottom:
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		lines = append(lines, b.String())
	}
	return lines, nil
}

// showQR shows a QR code on a terminal. Where the window is just high enough for it, the cursor stays beside its last
// line until the person presses Enter, since a prompt below it would move the first line out of sight.
func (p *person) showQR(ctx context.Context, in io.Reader, text string) error {
	lines, err := qrLines(text)
	if err != nil {
		return err
	}
	fmt.Fprint(p.out, strings.Join(lines, "\n"))
	out, ok := below(p.out).(*os.File)
	if !ok || !isTerminal(in) {
		fmt.Fprintln(p.out)
		return nil
	}
	if _, height, err := term.GetSize(out.Fd()); err != nil || height > len(lines)+1 {
		fmt.Fprintln(p.out)
		return nil //nolint:nilerr // the height decides on the question alone
	}
	fmt.Fprint(p.out, "  Enter: done ")
	read := make(chan struct{})
	go func() { // ends with the process, if the person presses no key
		defer close(read)
		_, _ = bufio.NewReader(in).ReadString('\n')
	}()
	select {
	case <-read:
	case <-ctx.Done():
		fmt.Fprintln(p.out)
	}
	return nil
}

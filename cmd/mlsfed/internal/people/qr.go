package people

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/charmbracelet/x/term"
	"rsc.io/qr"

	"github.com/mlsfed/mlsfed/cmd/mlsfed/internal/cli"
)

// qrLines draws a QR code with half blocks, two modules in a cell, with one light module around the code. Light
// modules have the colour of text, which is right on a dark terminal; most readers accept inverted codes too.
func qrLines(text string) ([]string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, err
	}
	light := func(x, y int) bool { return y <= code.Size && !code.Black(x, y) } // outside of the code nothing is black
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

// showQR shows a QR code on a terminal. If the window is just high enough, the cursor stays in the code's last line
// until the person presses Enter, since a prompt below the code would move the first line out of sight.
func (p *Person) showQR(ctx context.Context, in io.Reader, text string) error {
	lines, err := qrLines(text)
	if err != nil {
		return err
	}
	fmt.Fprint(p.out, strings.Join(lines, "\n"))
	if height := p.height(); height == 0 || height > len(lines)+1 || !cli.IsTerminal(in) {
		fmt.Fprintln(p.out)
		return nil
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

// height returns the number of lines of the command's terminal, 0 if that is not known.
func (p *Person) height() int {
	if p.guest != nil {
		return int(p.guest.request.Height)
	}
	out, ok := cli.Below(p.out).(*os.File)
	if !ok {
		return 0
	}
	_, height, err := term.GetSize(out.Fd())
	if err != nil {
		return 0
	}
	return height
}

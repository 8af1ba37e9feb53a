// Program embedded is a sensor that wakes, reports and sleeps: a device for a machine with little memory and no
// permanent connection. A timer of the system starts it, for example every ten minutes. It connects, reads the
// commands that people have sent, sends one reading, waits until its organization has the reading, and ends.
//
//	embedded -sensor FILE FOLDER LINK    # once: enrols, with a link of 'mlsfed user invite'
//	embedded -sensor FILE FOLDER         # from then on
//
// FILE holds a number, as /sys/class/thermal/thermal_zone0/temp does. People of the device's own organization send
// 'above 45' to get only higher readings, and 'all' to get every reading.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/client"
	"github.com/mlsfed/mlsfed/examples/device"
)

// awake bounds the time of one start. A reading that is not sent by then is sent the next time.
const awake = time.Minute

// small bounds the data that the device keeps in memory and uploads to its organization. client.Limits documents the
// meaning and the default of each number.
var small = client.Limits{
	Held: 64, HeldBytes: 256 << 10, Outgoing: 64, Operations: 8, Orders: 64, Groups: 2, GroupMembers: 256,
	KeyPackages: 4, Reserve: -1, Receipts: -1, Strangers: 4, Requests: 2, PastEpochs: 16, PastMost: 64,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	sensor := flag.String("sensor", "/sys/class/thermal/thermal_zone0/temp", "file with a number")
	flag.Parse()
	if flag.NArg() < 1 || flag.NArg() > 2 {
		log.Fatal("usage: embedded [-sensor FILE] FOLDER [LINK]")
	}
	ctx, cancel := context.WithTimeout(ctx, awake)
	defer cancel()
	if err := run(ctx, *sensor, flag.Arg(0), flag.Arg(1)); err != nil {
		log.Fatal(err)
	}
}

// run is one start: it enrols the device if there is a link, and reports to all conversations.
func run(ctx context.Context, sensor, folder, link string) (err error) {
	d, closeStore, err := device.Open(ctx, folder, link, "sensor", client.Options{Limits: small})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if err := d.CatchUp(ctx); err != nil {
		return err
	}
	if err := d.Tend(ctx); err != nil { // a device that keeps running does this every ten minutes
		return err
	}
	list, err := d.Conversations(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.State != client.StateActive {
			continue
		}
		if err := report(ctx, d, &c, sensor, folder); err != nil {
			return err
		}
	}
	return nil
}

// report executes the commands of a conversation, and sends a reading if the settings ask for it.
func report(ctx context.Context, d *client.Device, c *client.Conversation, sensor, folder string) error {
	settings := filepath.Join(folder, "above-"+c.ID.String())
	self, err := d.ID(ctx)
	if err != nil {
		return err
	}
	err = d.EachSoFar(ctx, c.ID, "commands", func(_ context.Context, m *client.Message) error {
		if m.Sender.User() == self.User() || m.Sender.Organization() != self.Organization() {
			return nil
		}
		return obey(settings, m.Content.Text)
	})
	if err != nil {
		return err
	}
	value, err := number(sensor)
	if err != nil {
		return err
	}
	if least, err := number(settings); err == nil && value <= least {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return deliver(ctx, d, c, strconv.FormatFloat(value, 'g', -1, 64))
}

// obey executes one command. It ignores other texts.
func obey(settings, text string) error {
	words := strings.Fields(text)
	switch {
	case len(words) == 1 && words[0] == "all":
		if err := os.Remove(settings); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	case len(words) == 2 && words[0] == "above":
		if _, err := strconv.ParseFloat(words[1], 64); err == nil {
			return os.WriteFile(settings, []byte(words[1]), 0o600)
		}
	}
	return nil
}

// deliver sends a text, and returns when the organization has it. From then on the text is on its way to the other
// members, even if this device fails.
func deliver(ctx context.Context, d *client.Device, c *client.Conversation, text string) error {
	events, stop := context.WithCancel(ctx)
	defer stop()
	changes := d.Subscribe(events) // before the text is sent, so that no event is missed
	id, err := d.SendText(ctx, c.ID, text)
	if err != nil {
		return err
	}
	for e := range changes {
		switch {
		case e.Type == client.EventMissed:
			return nil // the text is in the store, and is sent the next time if it was not yet
		case e.Message == nil || e.Message.ID != id:
		case e.Type == client.EventAccepted:
			return nil
		case e.Type == client.EventUndelivered:
			return fmt.Errorf("the reading was refused: %w", e.Err)
		}
	}
	return ctx.Err()
}

// number reads a file that holds a number.
func number(path string) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
}

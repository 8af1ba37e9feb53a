package content_test

import (
	"fmt"
	"time"

	"github.com/mlsfed/mlsfed/content"
	"github.com/mlsfed/mlsfed/content/markdown"
)

// A message that mentions a user, a reply to it, and what the receiver sees.
func Example() {
	const alice, bob, room = "mimi://a.example/u/alice", "mimi://b.example/u/bob", "mimi://a.example/r/lunch"
	salt := content.DeriveSalt([]byte("a secret that MLS exports"), []byte("a nonce"))

	question := content.Text(markdown.LinkTo(bob, "@Bob") + ", *pizza*?").WithSalt(salt)
	question.SetTime(time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC))
	id, err := question.ID(alice, room)
	if err != nil {
		panic(err)
	}
	salt[0]++ // each message has another one
	answer, err := content.Reply(id, content.MarkdownPart("Yes!")).WithSalt(salt).Encode(content.Limits{})
	if err != nil {
		panic(err)
	}

	fmt.Println(content.TextDevice.Plain(&question.Body))
	fmt.Println(question.Mentions(nil))
	c, err := content.Decode(answer, content.Limits{})
	if err != nil {
		panic(err)
	}
	fmt.Println(c.Kind(), c.InReplyTo == id, content.TextDevice.Plain(&c.Body))
	// Output:
	// @Bob (mimi://b.example/u/bob), pizza?
	// [{mimi://b.example/u/bob @Bob}]
	// reply true Yes!
}

// A device takes the best alternative that it can show.
func ExampleDevice_Choose() {
	english, french := content.Plain("Welcome").Body, content.Plain("Bienvenue").Body
	english.Language, french.Language = "en", "fr"
	body := content.MultiPart(content.ChooseOne, english, french, content.SinglePart("application/vnd.x", nil))
	for _, languages := range [][]string{{"fr-CA", "fr"}, {"de"}} {
		d := content.Device{MediaTypes: []string{"text/*"}, Languages: languages}
		parts, ok := d.Choose(&body)
		fmt.Println(string(parts[0].Content), ok)
	}
	// Output:
	// Bienvenue true
	// Welcome true
}

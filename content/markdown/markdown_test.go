package markdown

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// tree writes a tree in one line: p(text), h1(text), em(text), link<url>(text).
func tree(n *Node) string {
	var b strings.Builder
	write(&b, n)
	return b.String()
}

var short = map[Kind]string{
	Document: "doc", Paragraph: "p", Item: "item", Quote: "quote", Table: "table", Row: "row", Cell: "cell",
	Emphasis: "em", Strong: "strong", Strike: "del", Link: "link", Mention: "mention", Image: "img",
}

func write(b *strings.Builder, n *Node) {
	switch n.Kind {
	case Text:
		fmt.Fprintf(b, "%q", n.Text)
		return
	case Code, CodeBlock:
		fmt.Fprintf(b, "%v[%s]%q", n.Kind, n.Info, n.Text)
		return
	case Break:
		b.WriteString("br")
		return
	case Rule:
		b.WriteString("hr")
		return
	case Heading:
		fmt.Fprintf(b, "h%d", n.Level)
	case List:
		b.WriteString("ul")
		if n.Ordered {
			fmt.Fprintf(b, ":%d", n.Start)
		}
	default:
		b.WriteString(short[n.Kind])
	}
	if n.Task != NoTask {
		b.WriteString([]string{"", "[ ]", "[x]"}[n.Task])
	}
	if n.Align != AlignNone {
		b.WriteString([]string{"", "<", "=", ">"}[n.Align])
	}
	if n.URL != "" {
		b.WriteString("<" + n.URL)
		if n.Title != "" {
			b.WriteString(" " + n.Title)
		}
		b.WriteString(">")
	}
	b.WriteString("(")
	for i, child := range n.Children {
		if i > 0 {
			b.WriteString(" ")
		}
		write(b, child)
	}
	b.WriteString(")")
}

// TestBlocks checks the blocks of the supported part of GFM.
func TestBlocks(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{"", `doc()`},
		{" \n\t\n", `doc()`},
		{"a\nb\n\nc", `doc(p("a\nb") p("c"))`},
		{"a\r\nb\rc", `doc(p("a\nb\nc"))`},
		{"  a  ", `doc(p("a"))`},
		{"# a\n## b ##\n####### c\n#d\n#", `doc(h1("a") h2("b") p("####### c\n#d") h1())`},
		{"a\n===\nb\nc\n---", `doc(h1("a") h2("b\nc"))`},
		{"a\n\n---\n* * *\n__", `doc(p("a") hr hr p("__"))`},
		{"    code\n\n      more\n\na", "doc(code block[]\"code\\n\\n  more\" p(\"a\"))"},
		{"a\n    b", `doc(p("a\nb"))`},
		{"\tcode", `doc(code block[]"code")`},
		{"```go\na < b\n```\nc", `doc(code block[go]"a < b" p("c"))`},
		{"``` a\\+b &amp;\n```", "doc(code block[a+b &]\"\")"},
		{"~~~\n```\n~~~~", "doc(code block[]\"```\")"},
		{"```\nno end", `doc(code block[]"no end")`},
		{"``` a`b\nc", "doc(p(\"``` a`b\\nc\"))"},
		{"> a\n> b\nlazy\n\nc", `doc(quote(p("a\nb\nlazy")) p("c"))`},
		{"> a\nb\n===", `doc(quote(p("a\nb\n===")))`},
		{"> a\n    - b", `doc(quote(p("a\n- b")))`},
		{"- a\n - b\n  - c\n   - d\n    - e", `doc(ul(item(p("a")) item(p("b")) item(p("c")) item(p("d\n- e"))))`},
		{"> # a\n> - b\n>\n> > c", `doc(quote(h1("a") ul(item(p("b"))) quote(p("c"))))`},
		{"> a\n- b", `doc(quote(p("a")) ul(item(p("b"))))`},
		{"> ```\nnot lazy", `doc(quote(code block[]"") p("not lazy"))`},
		{"- a\n- b\n  c\n\n  d\n- e", `doc(ul(item(p("a")) item(p("b\nc") p("d")) item(p("e"))))`},
		{"- a\n  - b\n    - c\n- d", `doc(ul(item(p("a") ul(item(p("b") ul(item(p("c")))))) item(p("d"))))`},
		{"- a\n+ b\n* c", `doc(ul(item(p("a"))) ul(item(p("b"))) ul(item(p("c"))))`},
		{"2. a\n3. b\n4) c", `doc(ul:2(item(p("a")) item(p("b"))) ul:4(item(p("c"))))`},
		{"a\n2. b", `doc(p("a\n2. b"))`},
		{"a\n1. b", `doc(p("a") ul:1(item(p("b"))))`},
		{"a\n-\nb", `doc(h2("a") p("b"))`},
		{"1234567890. a", `doc(p("1234567890. a"))`},
		{"-a\n1.a", `doc(p("-a\n1.a"))`},
		{"-\n\n  a", `doc(ul(item()) p("a"))`},
		{"-     code", `doc(ul(item(code block[]"code")))`},
		{"- a\n\n\nb", `doc(ul(item(p("a"))) p("b"))`},
		{"- a\nlazy\n- b", `doc(ul(item(p("a\nlazy")) item(p("b"))))`},
		{"- ```\n  a\n\n  b\n  ```", `doc(ul(item(code block[]"a\n\nb")))`},
		{"- [ ] a\n- [x] b\n- [X] c\n- [y] d\n- [ ]", `doc(ul(item[ ](p("a")) item[x](p("b")) item[x](p("c")) item(p("[y] d")) item(p("[ ]"))))`},
		{"|a|b|\n|:-|-:|\n|1|2|\n|3|", `doc(table(row(cell<("a") cell>("b")) row(cell<("1") cell>("2")) row(cell<("3"))))`},
		{"a | b\n--- | :-:\n*1* | \\| | 3\n\nc", `doc(table(row(cell("a") cell=("b")) row(cell(em("1")) cell=("|"))) p("c"))`},
		{"a | b\n---\nc", `doc(h2("a | b") p("c"))`},
		{"a\n|b|\n|-|\n|c|", `doc(p("a") table(row(cell("b")) row(cell("c"))))`},
		{"a\n:-", `doc(p("a\n:-"))`},
		{"|a|\n|-|\n> b", `doc(table(row(cell("a"))) quote(p("b")))`},
		{"<div>\n*a*\n</div>\n<!-- b -->", `doc(p("<div>\n" em("a") "\n</div>\n<!-- b -->"))`},
		{"[a]: https://a.example", `doc(p("[a]: https://a.example"))`},
		{"a\x00b\x1b[2J", `doc(p("a�b�[2J"))`},
		{"a\xffb", `doc(p("a�b"))`},
	} {
		if got := tree(Parse(c.source, Options{})); got != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.source, got, c.want)
		}
	}
}

// TestInlines checks the markup within a paragraph.
func TestInlines(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{"*a* **b** ***c***", `em("a") " " strong("b") " " em(strong("c"))`},
		{"_a_ __b__ a_b_c", `em("a") " " strong("b") " a_b_c"`},
		{"a*b*c * d *", `"a" em("b") "c * d *"`},
		{"**a*b**", `strong("a*b")`},
		{"*a **b*", `"*a *" em("b")`},
		{"*a **b** c*", `em("a " strong("b") " c")`},
		{"**a* b*", `em(em("a") " b")`},
		{"*foo**bar*", `em("foo**bar")`},
		{"foo***bar***baz", `"foo" em(strong("bar")) "baz"`},
		{"~a~ ~~b~~ ~~~c~~~ ~~d~", `del("a") " " del("b") " ~~~c~~~ ~~d~"`},
		{"*a ~~b* c~~", `em("a ~~b") " c~~"`},
		{"`a` ``b`c`` ` d ` `e", "code[]\"a\" \" \" code[]\"b`c\" \" \" code[]\"d\" \" `e\""},
		{"`a\nb` \\`c`", "code[]\"a b\" \" `c`\""},
		{"*a `b*` c*", "em(\"a \" code[]\"b*\" \" c\")"},
		{`\*a\* \q \\`, `"*a* \\q \\"`},
		{"a  \nb\\\nc\nd", `"a" br "b" br "c\nd"`},
		{"&amp; &lt;b&gt; &#65; &#x1f600; &nope; &amp &notit; &#x;", `"& <b> A 😀 &nope; &amp &notit; &#x;"`},
		{"&#27;[2J &#0;", `"�[2J �"`},
		{"[a](https://a.example)", `link<https://a.example>("a")`},
		{`[a](<https://a.example/x(y> "title &amp; \"x\"")`, `link<https://a.example/x(y title & "x">("a")`},
		{"[a](https://a.example/(b)(c) 'd')", `link<https://a.example/(b)(c) d>("a")`},
		{"[a](https://a.example (d))", `link<https://a.example d>("a")`},
		{"[*a* `b`](http://a.example)", "link<http://a.example>(em(\"a\") \" \" code[]\"b\")"},
		{"*a [b*](http://a.example)", `"*a " link<http://a.example>("b*")`},
		{"[a [b](http://b.example)](http://a.example)", `"[a " link<http://b.example>("b") "](http://a.example)"`},
		{"[![a](https://a.example/i)](https://b.example)", `link<https://b.example>(img<https://a.example/i>("a"))`},
		{"![a *b*](cid:5@local.invalid)", `img<cid:5@local.invalid>("a " em("b"))`},
		{"[a](javascript:alert(1))", `"[a](javascript:alert(1))"`},
		{"[a](JavaScript:x) [b](data:text/html,x) [c](vbscript:x)", `"[a](JavaScript:x) [b](data:text/html,x) [c](vbscript:x)"`},
		{"[a](java&#115;cript:x) [b](&#106;avascript:x)", `"[a](javascript:x) [b](javascript:x)"`},
		{"[a](/path) [b](//b.example) [c](#x) [d]()", `"[a](/path) [b](//b.example) [c](#x) [d]()"`},
		{"[a](https://a.example&#10;x) [b](https://b.example/&#x202e;x)", "\"[a](https://a.example\\nx) [b](https://b.example/\\u202ex)\""},
		{"[a](HTTPS://a.example)", `link<HTTPS://a.example>("a")`},
		{"[a](https://a.example) b]", `link<https://a.example>("a") " b]"`},
		{"[a] (https://a.example) [a][b] [a]", `"[a] (https://a.example) [a][b] [a]"`},
		{"[Alice](mimi://a.example/u/alice)", `mention<mimi://a.example/u/alice>("Alice")`},
		{"[Room](mimi://a.example/r/room) <im:bob@b.example>", `mention<mimi://a.example/r/room>("Room") " " mention<im:bob@b.example>("im:bob@b.example")`},
		{"<mimi://a.example/u/alice>", `mention<mimi://a.example/u/alice>("mimi://a.example/u/alice")`},
		{"<https://a.example/?a=b&c> <a@b.example> <b> </a> <https:// x> <javascript:x>", `link<https://a.example/?a=b&c>("https://a.example/?a=b&c") " " link<mailto:a@b.example>("a@b.example") " <b> </a> <https:// x> <javascript:x>"`},
		{"https://a.example www.a.example a@b.example", `"https://a.example www.a.example a@b.example"`},
		{"<script>alert(1)</script>", `"<script>alert(1)</script>"`},
		{`<a href="https://a.example" onclick="x">*b*</a>`, `"<a href=\"https://a.example\" onclick=\"x\">" em("b") "</a>"`},
	} {
		if got, want := tree(Parse(c.source, Options{})), "doc(p("+c.want+"))"; got != want {
			t.Errorf("%q:\n got %s\nwant %s", c.source, got, want)
		}
	}
}

// TestOptions checks schemes, mentions and the bound on nodes.
func TestOptions(t *testing.T) {
	o := Options{Schemes: []string{"sip"}, Mention: func(url string) bool { return url == "sip:a" }}
	if got, want := tree(Parse("[a](sip:a) [b](sip:b) [c](https://c.example)", o)), `doc(p(mention<sip:a>("a") " " link<sip:b>("b") " [c](https://c.example)"))`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, source := range []string{strings.Repeat("*a*b", 1000), strings.Repeat("a\n\n", 1000), strings.Repeat("- a\n", 1000), strings.Repeat("|a|\n|-|\n|b|\n\n", 500), strings.Repeat("`a` <https://a.example> ", 500)} {
		for _, most := range []int{1, 2, 3, 4, 5, 6, 7, 100} {
			root := Parse(source, Options{Nodes: most})
			nodes := 0
			root.Walk(func(*Node) { nodes++ })
			// Texts around the last nodes, a last paragraph, and the cells of a last row come on top.
			if nodes > 2*most+maxColumns+4 {
				t.Errorf("%.20q: %d nodes, wanted some %d", source, nodes, most)
			}
			if got, want := strings.Count(root.Plain(), "a"), strings.Count(source, "a")/8; got < want {
				t.Errorf("%.20q, %d nodes: text is lost: %d of its letters", source, most, got)
			}
		}
	}
}

// letters returns the letters of a text; markup has none, except for URLs.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r
		}
		return -1
	}, s)
}

// genMarkdown generates texts that are dense in markup. Their letters make no character reference.
func genMarkdown() *rapid.Generator[string] {
	pieces := []string{
		"q", "z", "qz", " ", "  ", "\n", "\n\n", "    ", "\t", "*", "**", "_", "__", "~", "~~", "`", "```", "[", "]", "(", ")", "!", "<", ">",
		"> ", "- ", "+ ", "1. ", "# ", "===", "---", "|", "|-|", ":-:", "\\", "&", ";", "[x] ", "\r",
	}
	return rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(0, 60).Draw(t, "number") // a slice of any length would be short most of the time
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), n, n).Draw(t, "pieces"), "")
	})
}

// depthOf returns the depth of a tree.
func depthOf(n *Node) int {
	deepest := 0
	for _, child := range n.Children {
		deepest = max(deepest, depthOf(child))
	}
	return deepest + 1
}

// checkTree checks what every tree promises.
func checkTree(t interface {
	Errorf(format string, args ...any)
}, source string, root *Node) {
	if d := depthOf(root); d > MaxDepth {
		t.Errorf("%.200q: depth %d", source, d)
	}
	p := newParser(Options{})
	root.Walk(func(n *Node) {
		if n != root && n.Kind == Document || n.Kind > Break {
			t.Errorf("%.200q: a node of the kind %v", source, n.Kind)
		}
		if clean(n.Text) != n.Text || clean(n.Title) != n.Title || clean(n.Info) != n.Info {
			t.Errorf("%.200q: control characters in %q", source, n.Text)
		}
		if (n.URL != "") != (n.Kind == Link || n.Kind == Mention || n.Kind == Image) || n.URL != "" && !p.allowed(n.URL) {
			t.Errorf("%.200q: %v with the URL %q", source, n.Kind, n.URL)
		}
	})
	root.Plain()
}

// TestNothingIsLost checks that the letters of a text are all in its tree, in their order, and that the tree keeps its
// promises.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := genMarkdown().Draw(t, "source")
		root := Parse(source, Options{})
		checkTree(t, source, root)
		var b strings.Builder
		root.Walk(func(n *Node) { b.WriteString(n.Info + n.Text) })
		if got, want := letters(b.String()), letters(source); got != want && !hasTask(root) && !longRow(root) {
			t.Errorf("%q: letters %q, want %q, in %s", source, got, want, tree(root))
		}
	})
}

// hasTask and longRow report what drops letters by the rules of GFM: the x of a box, the cells beyond the header's.
func hasTask(root *Node) (found bool) {
	root.Walk(func(n *Node) { found = found || n.Task == Done })
	return found
}

func longRow(root *Node) (found bool) {
	root.Walk(func(n *Node) { found = found || n.Kind == Table })
	return found
}

// TestEscape checks that an escaped text is shown as itself, and that a link shows its text and leads to its URL.
func TestEscape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := strings.ReplaceAll(genMarkdown().Draw(t, "source"), "\r", "")
		root := Parse(Escape(source), Options{})
		root.Walk(func(n *Node) {
			switch n.Kind {
			case Document, Paragraph, Text, Break:
			default:
				t.Errorf("%q, escaped to %q: %v", source, Escape(source), n.Kind)
			}
		})
		if got := squeeze(root.Plain()); got != squeeze(source) {
			t.Errorf("%q: shown as %q", source, root.Plain())
		}

		text := strings.Join(strings.Fields(source), " ")
		root = Parse(LinkTo("https://a.example/?a=b&amp;c", text), Options{})
		if len(root.Children) != 1 || len(root.Children[0].Children) != 1 {
			t.Fatalf("%q: %s", text, tree(root))
		}
		if n := root.Children[0].Children[0]; n.Kind != Link || n.URL != "https://a.example/?a=b&amp;c" || squeeze(n.Label()) != squeeze(text) {
			t.Errorf("%q: %s", text, tree(root))
		}
	})
	if got := LinkTo("https://a.example/(x) <\"\\`\x00", "a"); got != `[a](https://a.example/%28x%29%20%3C%22%5C%60%00)` {
		t.Errorf("link %s", got)
	}
}

// squeeze removes blanks: lines may lose those at their ends.
func squeeze(s string) string { return strings.Join(strings.Fields(s), "") }

// TestPlain checks the text without markup.
func TestPlain(t *testing.T) {
	const source = "# Title\n\nSome *text* with [a link](https://a.example) and <https://b.example>\\\nnext\n\n" +
		"> quote\n>\n> more\n\n- a\n  - b\n- [x] c\n\n9. d\n10. e\n   f\n\n```\ncode\n```\n---\n|x|y|\n|-|-|\n|1|2|\n\n" +
		"![pic](https://a.example/p) [Alice](mimi://a.example/u/alice) <a@b.example>"
	const want = "Title\n\nSome text with a link (https://a.example) and https://b.example\nnext\n\n" +
		"> quote\n>\n> more\n\n- a\n  - b\n- [x] c\n\n9. d\n10. e\n    f\n\ncode\n\n---\n\nx | y\n1 | 2\n\n" +
		"[image: pic] (https://a.example/p) Alice (mimi://a.example/u/alice) a@b.example"
	if got := Parse(source, Options{}).Plain(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestMisleading checks the links that a device asks about (§9.6).
func TestMisleading(t *testing.T) {
	for source, want := range map[string]bool{
		"[example.com/foobar](https://example.com/foobar)":                   false,
		"[https://example.com/foobar](https://example.com/foobar)":           false,
		"<https://example.com/foobar>":                                       false,
		"<a@b.example>":                                                      false,
		"[https://example.com/foobar](https://spearphishers.example/foobar)": true,
		"[https://example.com/foobar](http://example.com/foobar)":            true,
		"[example.com/foobar](http://example.com/foobar)":                    true,
		"[*https://example.com*/foobar](https://example.com.evil.example/)":  true,
		"[Alice](mimi://a.example/u/alice)":                                  false,
	} {
		root := Parse(source, Options{})
		if n := root.Children[0].Children[0]; n.Misleading() != want {
			t.Errorf("%s: %v", source, n.Misleading())
		}
	}
}

// TestDepth checks the bounds of the tree on texts that nest without end.
func TestDepth(t *testing.T) {
	const n = 4000
	for _, piece := range []string{"> ", "- ", "1. ", "> - ", "*a **b ", "_", "**", "*_", "![", "[", "~~a ~b "} {
		for _, tail := range []string{"", "x", strings.Repeat("](https://a.example)", n), strings.Repeat("**b* a*", n), strings.Repeat("*_", n)} {
			source := strings.Repeat(piece, n) + tail
			checkTree(t, source, Parse(source, Options{}))
		}
	}
	root := Parse(strings.Repeat("> ", MaxBlockDepth)+"a", Options{})
	if got, want := depthOf(root), MaxBlockDepth+3; got != want {
		t.Errorf("depth of %d quotes: %d, want %d", MaxBlockDepth, got, want)
	}
	if got, want := root.Plain(), strings.Repeat("> ", MaxBlockDepth)+"a"; got != want {
		t.Errorf("shown as %q, want %q", got, want)
	}
	if got, want := Parse(strings.Repeat("> ", MaxBlockDepth+2)+"a", Options{}).Plain(), strings.Repeat("> ", MaxBlockDepth+2)+"a"; got != want {
		t.Errorf("beyond the bound shown as %q, want %q", got, want)
	}
}

// TestLinear checks that twice the text costs at most twice the steps, for texts that attack parsers of Markdown, and
// that no text costs many steps, or much memory, for each byte.
func TestLinear(t *testing.T) {
	const factor = 1000 // bytes that are ever allocated, for each byte; most are garbage before the end
	for _, piece := range []string{
		"a", " ", "\n", "a\n", "a\n\n", "*", "*a ", "a*", "a**b", "*a_ ", "**a *b ", "_a __b ", "~a ", "~~a~ ", "`", "`a", "``a`", "`a``b```c",
		"[", "]", "[]", "[](", "[a](", "[a](b", "[a](<b", "[a](https://a.example \"", "[a](https://a.example '\"", "![", "![a](", "[](\\(", "[](((((",
		"[a](https://a.example)", "![[a](https://a.example)", "<", "<a", "<https:", "<a@b.", "&", "&#", "&amp", "\\", "!", "> ", ">\n", "> a\n", "- ",
		"- a\n", "-\n", "- - ", "1. ", "* * ", "- * ", "# ", "#", "```\n", "~~~ ", "|", "|a", "|a\n|-\n", "a|b\n-|-\n", "    a\n", "\t", "\ta\n",
		"  - a\n", "> - a\n", "- > a\nb\n", "===\n", "a\n=\n", "---\n", "a\n    b\n", "[ ] ", "- [ ] a\n", "\r", "\x00", "\xff", "<>", "](", "](a) ",
	} {
		steps := func(n int) int {
			p := newParser(Options{})
			source := strings.Repeat(piece, n/len(piece))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p.document(source)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > uint64(factor*n) {
				t.Errorf("%q: %d bytes of memory for %d bytes of text", piece, got, n)
			}
			return p.steps
		}
		const n = 16000
		one, two := steps(n), steps(2*n)
		if two > 2*one+one/4+1000 {
			t.Errorf("%q: %d steps for %d bytes, %d for twice as many", piece, one, n, two)
		}
		if one > 60*n {
			t.Errorf("%q: %d steps for %d bytes", piece, one, n)
		}
	}
}

// TestTokens checks that a block with very much markup keeps its text.
func TestTokens(t *testing.T) {
	source := strings.Repeat("*a* ", maxTokens)
	root := Parse(source, Options{})
	checkTree(t, source, root)
	if got := strings.Count(root.Plain(), "a"); got != maxTokens {
		t.Errorf("%d of %d letters", got, maxTokens)
	}
}

// FuzzMarkdown checks that parsing never fails and that each tree keeps its promises.
func FuzzMarkdown(f *testing.F) {
	for _, s := range []string{
		"# a\n\n> b\n- c\n  1. d\n\n```go\ne\n```\n|f|g|\n|-|:-:|\n|h|i|\n\n***", "*a **b ~~c~~** `d` [e](https://a.example 'f') ![g](cid:1@local.invalid)*",
		"<https://a.example> <a@b.example> &amp; \\* a  \nb\\\nc", "[a [b](http://b.example)](javascript:x)", "\t- [x] a\r\n\x00\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		p := newParser(Options{})
		root := p.document(source)
		checkTree(t, source, root)
		if p.steps > 100*len(source)+1000 {
			t.Errorf("%d steps for %d bytes", p.steps, len(source))
		}
		shown := Parse(Escape(source), Options{})
		shown.Walk(func(n *Node) {
			if n.URL != "" {
				t.Errorf("%q, escaped: a link", source)
			}
		})
	})
}

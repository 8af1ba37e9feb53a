package main

func Example() {
	main()
	// Output: alice: hello
}

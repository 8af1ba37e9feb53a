package netkind

import (
	"net/netip"
	"strings"
	"testing"
)

// TestKindsOfAddresses checks that every notation of an inner address has its kind, at the edges of the networks too.
func TestKindsOfAddresses(t *testing.T) {
	for kind, list := range map[Kind]string{
		Public:    "8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 100.63.255.255 100.128.0.0 169.253.0.1 128.0.0.1 223.255.255.255 2a00:1450::1 2606:4700::1111 2002:808:808::1 64:ff9b::808:808 ::ffff:8.8.8.8",
		Loopback:  "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 ::ffff:7f00:1 64:ff9b::7f00:1 2002:7f00:1::1 2a00:1::5efe:7f00:1 2a00:1::200:5efe:7f00:1",
		Private:   "10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.255.255 fc00::1 fdff:ffff::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:c0a8:101::",
		Shared:    "100.64.0.0 100.127.255.255 64:ff9b::6440:1",
		LinkLocal: "169.254.0.1 169.254.255.255 fe80::1 febf::1 fe80::1%1 ::ffff:169.254.1.1",
		Metadata:  "169.254.169.254 ::ffff:a9fe:a9fe 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: fd00:ec2::254 100.100.100.200 168.63.129.16 192.0.0.192",
		Multicast: "224.0.0.1 239.255.255.255 ff02::1 ff0e::1",
		Reserved:  "0.0.0.0 0.0.0.1 :: 240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 192.0.0.1 2001:db8::1 2001:0:1::1 3fff::1 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b:1::7f00:1 fec0::1 100::1 4000::1 5f00::1",
	} {
		for s := range strings.FieldsSeq(list) {
			if got := Of(netip.MustParseAddr(s)); got != kind {
				t.Errorf("%s is of kind %q, wanted %q", s, got, kind)
			}
		}
	}
	if got := Of(netip.Addr{}); got != Reserved {
		t.Errorf("no address is of kind %q, wanted %q", got, Reserved)
	}
	for _, k := range kinds {
		if !k.kind.Valid() {
			t.Errorf("kind %s has no name", k.kind)
		}
	}
	if Public.Valid() || Kind("port").Valid() {
		t.Error("a kind that does not exist has a name")
	}
}

// TestKindsOfUnknownOrganizations checks the addresses that only an admitted organization may have.
func TestKindsOfUnknownOrganizations(t *testing.T) {
	for s, want := range map[string]Kind{
		"8.8.8.8": Public, "2606:4700::1111": Public, "64:ff9b::808:808": Public, "::ffff:8.8.8.8": Public,
		"2002:808:808::1": Transition, "2002:a00:1::1": Private, "192.88.99.1": Transition, "::ffff:192.88.99.1": Transition,
		"192.31.196.1": Transition, "192.52.193.1": Transition, "192.175.48.1": Transition, "2620:4f:8000::1": Transition,
		"2a00:1::1%eth0": LinkLocal, "fe80::1%eth0": LinkLocal, "2001:0:1::1": Reserved, "10.0.0.1": Private,
	} {
		if got := OfUnknown(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s is of kind %q, wanted %q", s, got, want)
		}
	}
}

// TestAddressesOfThisMachine checks loopback, which every machine has, and an address that this machine does not have.
func TestAddressesOfThisMachine(t *testing.T) {
	if !OfMachine(netip.MustParseAddr("127.0.0.1")) || OfMachine(netip.MustParseAddr("8.8.8.8")) {
		t.Error("the machine's addresses are not known")
	}
}

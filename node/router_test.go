package node

import (
	"reflect"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// TestMethods checks that the router serves every method of wire's table except those that the gateway answers
// itself, and takes the request type of the table: the gateway decodes by the table, and the router asserts the type.
func TestMethods(t *testing.T) {
	r := newRouter(router{})
	ofGateway := map[wire.Method]bool{wire.MethodFeatures: true, wire.MethodLimits: true}
	for _, m := range wire.Methods() {
		handler, served := r.methods[m]
		if served == ofGateway[m] {
			t.Errorf("method %s: the router serves it: %t, the gateway: %t; want exactly one", m, served, ofGateway[m])
			continue
		}
		if got, want := reflect.TypeOf(handler.request), reflect.TypeOf(m.Request()); served && got != want {
			t.Errorf("method %s: the router takes a %v, wire's table has a %v", m, got, want)
		}
	}
	for m := range r.methods {
		if !m.Known() {
			t.Errorf("method %s of the router has no row in wire's table", m)
		}
	}
}

package scim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/mlsfed/mlsfed/wire"
)

// memory are accounts in memory. The real ones are tested with a whole node: test.TestProviderEndsUsers.
type memory struct {
	users []User
	fail  error
}

func (m *memory) List(context.Context) ([]User, error) { return m.users, m.fail }

func (m *memory) Get(_ context.Context, name string) (User, error) {
	for _, u := range m.users {
		if u.Name == name {
			return u, m.fail
		}
	}
	return User{}, wire.Errorf(wire.NotFound, "get", "%s", name)
}

func (m *memory) Set(_ context.Context, name, external string, active bool) (User, error) {
	u := User{Name: name, External: external, Active: active}
	for i := range m.users {
		if m.users[i].Name == name {
			m.users[i] = u
			return u, m.fail
		}
	}
	m.users = append(m.users, u)
	return u, m.fail
}

func (m *memory) Delete(_ context.Context, name string) error {
	for i := range m.users {
		if m.users[i].Name == name {
			m.users = append(m.users[:i], m.users[i+1:]...)
			return m.fail
		}
	}
	return wire.Errorf(wire.NotFound, "delete", "%s", name)
}

var secret = strings.Repeat("s", MinToken)

func newHandler(t testing.TB, m *memory) *Handler {
	t.Helper()
	h, err := New(Config{Domain: "a.example", Accounts: m, Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(t testing.TB, h http.Handler, method, path, body string) (int, map[string]any) {
	t.Helper()
	r := httptest.NewRequest(method, Path+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+secret)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	answer := make(map[string]any)
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s %s: %q: %v", method, path, w.Body, err)
		}
	}
	return w.Code, answer
}

const patchHead = `{"schemas":["` + schemaPatch + `"],"Operations":`

// TestPatch: each way in which providers say that an account has ended (RFC 7644 §3.5.2).
func TestPatch(t *testing.T) {
	for name, c := range map[string]struct {
		operations string
		status     int
		active     bool
		external   string
	}{
		"a path":                        {`[{"op":"replace","path":"active","value":false}]`, 200, false, "42"},
		"a text":                        {`[{"op":"Replace","path":"active","value":"False"}]`, 200, false, "42"},
		"no path":                       {`[{"op":"replace","value":{"active":false}}]`, 200, false, "42"},
		"add":                           {`[{"op":"add","value":{"active":false,"displayName":"A"}}]`, 200, false, "42"},
		"another attribute":             {`[{"op":"replace","path":"name.familyName","value":"L"}]`, 200, true, "42"},
		"the identifier":                {`[{"op":"replace","path":"externalId","value":"43"}]`, 200, true, "43"},
		"the identifier removed":        {`[{"op":"remove","path":"externalId"}]`, 200, true, ""},
		"ended and active again":        {`[{"op":"replace","path":"active","value":false},{"op":"replace","path":"active","value":true}]`, 200, true, "42"},
		"the same name":                 {`[{"op":"replace","path":"userName","value":"alice@a.example"}]`, 200, true, "42"},
		"another name":                  {`[{"op":"replace","path":"userName","value":"bob"}]`, 400, true, "42"},
		"ended, then what is wrong":     {`[{"op":"replace","path":"active","value":false},{"op":"move","path":"x"}]`, 400, true, "42"},
		"active removed":                {`[{"op":"remove","path":"active"}]`, 400, true, "42"},
		"a number":                      {`[{"op":"replace","path":"active","value":0}]`, 400, true, "42"},
		"no operation":                  {`[]`, 400, true, "42"},
		"too many":                      {"[" + strings.Repeat(`{"op":"replace","path":"x","value":1},`, maxOperations) + `{"op":"replace","path":"x","value":1}]`, 400, true, "42"},
		"as many as may be":             {"[" + strings.Repeat(`{"op":"replace","path":"x","value":1},`, maxOperations-1) + `{"op":"replace","path":"x","value":1}]`, 200, true, "42"},
		"remove without a path":         {`[{"op":"remove"}]`, 400, true, "42"},
		"an object that is none":        {`[{"op":"replace","value":false}]`, 400, true, "42"},
		"an identifier that is no text": {`[{"op":"replace","path":"externalId","value":{}}]`, 400, true, "42"},
	} {
		m := &memory{users: []User{{Name: "alice", External: "42", Active: true}}}
		status, answer := ask(t, newHandler(t, m), "PATCH", "/Users/alice", patchHead+c.operations+"}")
		if u := m.users[0]; status != c.status || u.Active != c.active || u.External != c.external || u.Name != "alice" {
			t.Errorf("%s: %d, %+v, %v", name, status, u, answer)
		}
		if c.status != 200 && (answer["status"] != fmt.Sprint(c.status) || answer["detail"] == "") {
			t.Errorf("%s: the error is %v", name, answer)
		}
	}
	if status, _ := ask(t, newHandler(t, &memory{users: []User{{Name: "alice"}}}), "PATCH", "/Users/alice", `{"Operations":[{"op":"replace","path":"active","value":true}]}`); status != 400 {
		t.Errorf("without the schema: %d", status)
	}
}

func TestList(t *testing.T) {
	m := new(memory)
	for i := range maxPage + 5 {
		m.users = append(m.users, User{Name: fmt.Sprintf("u%03d", i), External: fmt.Sprint("x", i), Active: true})
	}
	h := newHandler(t, m)
	for query, want := range map[string][3]int{ // total, first, on the page
		"":                                    {maxPage + 5, 1, maxPage},
		"startIndex=201":                      {maxPage + 5, 201, 5},
		"startIndex=999":                      {maxPage + 5, 999, 0},
		"startIndex=-3&count=2":               {maxPage + 5, 1, 2},
		"count=0":                             {maxPage + 5, 1, 0},
		"count=100000":                        {maxPage + 5, 1, maxPage},
		`filter=userName eq "u007"`:           {1, 1, 1},
		`filter=USERNAME Eq "U007@a.example"`: {1, 1, 1},
		`filter=externalId eq "x8"`:           {1, 1, 1},
		`filter=externalId eq ""`:             {0, 1, 0},
		`filter=id eq "nobody"`:               {0, 1, 0},
		`filter=userName eq "not a name"`:     {0, 1, 0},
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		status, a := ask(t, h, "GET", "/Users?"+q.Encode(), "")
		if list, _ := a["Resources"].([]any); status != 200 || a["totalResults"] != float64(want[0]) || a["startIndex"] != float64(want[1]) || len(list) != want[2] || a["itemsPerPage"] != float64(want[2]) {
			t.Errorf("%q: %d, total %v, first %v, %d on the page", query, status, a["totalResults"], a["startIndex"], len(list))
		}
	}
	for _, query := range []string{`filter=active eq true`, `filter=userName eq "a" or id eq "b"`, `filter=userName eq "\x"`, "count=x"} {
		q, _ := url.ParseQuery(query)
		if status, _ := ask(t, h, "GET", "/Users?"+q.Encode(), ""); status != 400 {
			t.Errorf("%q: %d", query, status)
		}
	}
}

func TestRefusals(t *testing.T) {
	m := &memory{users: []User{{Name: "alice", Active: true}}}
	h := newHandler(t, m)
	for _, header := range []string{"", "Bearer", "Bearer " + secret + "x", "Basic " + secret, "Bearer " + secret[1:]} {
		r := httptest.NewRequest("DELETE", Path+"/Users/alice", nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" || len(m.users) != 1 {
			t.Errorf("%q: %d, %d users", header, w.Code, len(m.users))
		}
	}
	if status, _ := ask(t, h, "POST", "/Users", `{"userName":"`+strings.Repeat("a", maxBody)+`"}`); status != 413 {
		t.Errorf("a body over the limit: %d", status)
	}
	m.fail = errors.New("disk")
	if status, a := ask(t, h, "GET", "/Users/alice", ""); status != 500 || strings.Contains(fmt.Sprint(a), "disk") {
		t.Errorf("a fault: %d, %v", status, a)
	}
	if _, err := New(Config{Domain: "a.example", Accounts: m, Token: secret[1:]}); err == nil {
		t.Error("a short token is taken")
	}
}

// FuzzRequest: no request makes a handler panic, name a user who cannot be, or change another one.
func FuzzRequest(f *testing.F) {
	f.Add("PATCH", "/Users/alice", patchHead+`[{"op":"replace","path":"active","value":"False"}]}`)
	f.Add("POST", "/Users", `{"userName":"bob@a.example","active":true}`)
	f.Add("PUT", "/Users/alice", `{"userName":"alice","active":false}`)
	f.Add("GET", `/Users?filter=userName+eq+%22a%22&count=1`, "")
	f.Fuzz(func(t *testing.T, method, path, body string) {
		u, err := url.ParseRequestURI(Path + path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		m := &memory{users: []User{{Name: "alice", Active: true}, {Name: "zoe", Active: true}}}
		h := newHandler(t, m)
		r := &http.Request{Method: method, URL: u, Header: http.Header{"Authorization": {"Bearer " + secret}}, Body: http.NoBody, Host: "a.example"}
		r = r.WithContext(t.Context())
		r.Body = httptest.NewRequest("POST", "/", strings.NewReader(body)).Body
		h.ServeHTTP(httptest.NewRecorder(), r)
		for _, v := range m.users {
			if _, err := wire.NewUserID("a.example", v.Name); err != nil {
				t.Fatalf("%s %s %s made %q", method, path, body, v.Name)
			}
		}
	})
}

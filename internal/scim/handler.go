package scim

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mlsfed/mlsfed/wire"
)

// User has the attributes of a user that a provider can set, and those that the node adds.
type User struct {
	Name     string // in the organization: the resource's id and userName
	External string // the provider's identifier; "" for none
	Active   bool
	Created  time.Time
	Modified time.Time
}

// Accounts are the users of an organization. An error is wire.NotFound for a user who is not listed.
type Accounts interface {
	List(ctx context.Context) ([]User, error)
	Get(ctx context.Context, name string) (User, error)
	// Set makes a user known, or changes one. A user who is not active any more loses all devices.
	Set(ctx context.Context, name, external string, active bool) (User, error)
	// Delete does so too, and lists the user no more.
	Delete(ctx context.Context, name string) error
}

// Config says what a Handler serves.
type Config struct {
	Domain   wire.Domain
	Accounts Accounts
	Token    string // that the provider sends as bearer token: at least MinToken characters
	Fault    func(error)
}

// MinToken is the least length of a bearer token, in bytes.
const MinToken = 32

// Path is where a Handler serves.
const Path = "/scim/v2"

// Bounds of requests and answers.
const (
	maxBody = 64 << 10 // bytes
	maxPage = 200      // resources
)

// The schemas of messages and resources.
const (
	schemaUser  = "urn:ietf:params:scim:schemas:core:2.0:User"
	schemaList  = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	schemaPatch = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	schemaError = "urn:ietf:params:scim:api:messages:2.0:Error"
)

// Handler serves the requests of a provider below Path.
type Handler struct {
	cfg   Config
	token [sha256.Size]byte
	mux   *http.ServeMux
}

// New makes a handler.
func New(cfg Config) (*Handler, error) {
	if len(cfg.Token) < MinToken {
		return nil, fmt.Errorf("scim: a bearer token of %d characters, wanted at least %d", len(cfg.Token), MinToken)
	}
	if cfg.Fault == nil {
		cfg.Fault = func(error) {}
	}
	h := &Handler{cfg: cfg, token: sha256.Sum256([]byte(cfg.Token)), mux: http.NewServeMux()}
	h.cfg.Token = ""
	for pattern, serve := range map[string]func(*http.Request) (int, any, error){
		"GET /Users": h.list, "POST /Users": h.create, "GET /Users/{id}": h.get, "PUT /Users/{id}": h.replace, "PATCH /Users/{id}": h.patch,
		"DELETE /Users/{id}": h.remove, "GET /ServiceProviderConfig": h.provider, "GET /ResourceTypes": h.types, "GET /Schemas": h.schemas,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		h.mux.HandleFunc(method+" "+Path+path, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, serve) })
	}
	h.mux.HandleFunc(Path+"/", func(w http.ResponseWriter, r *http.Request) {
		h.serve(w, r, func(*http.Request) (int, any, error) {
			return 0, nil, &fault{http.StatusNotFound, "", "no such resource: Users, ServiceProviderConfig, ResourceTypes and Schemas are served"}
		})
	})
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(sum[:], h.token[:]) != 1 {
		w.Header().Set("WWW-Authenticate", `Bearer realm="scim"`)
		write(w, http.StatusUnauthorized, errorBody(&fault{http.StatusUnauthorized, "", "the bearer token is not the one of scim.token_file"}))
		return
	}
	h.mux.ServeHTTP(w, r)
}

// fault is a refusal, as RFC 7644 §3.12 has it.
type fault struct {
	status int
	kind   string // scimType; "" for none
	detail string
}

func (f *fault) Error() string { return f.detail }

func errorBody(f *fault) any {
	body := map[string]any{"schemas": []string{schemaError}, "status": strconv.Itoa(f.status), "detail": f.detail}
	if f.kind != "" {
		body["scimType"] = f.kind
	}
	return body
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, do func(*http.Request) (int, any, error)) {
	status, body, err := do(r)
	if err == nil {
		write(w, status, body)
		return
	}
	var f *fault
	switch code := wire.CodeOf(err); {
	case errors.As(err, &f):
	case code == wire.NotFound:
		f = &fault{http.StatusNotFound, "", "no such user"}
	case code == wire.Malformed, code == wire.TooLarge, code == wire.Invalid:
		f = &fault{http.StatusBadRequest, "invalidValue", wire.Line(err.Error())}
	default:
		h.cfg.Fault(err)
		f = &fault{http.StatusInternalServerError, "", "a fault of the node: its operator finds it in the log"}
	}
	write(w, f.status, errorBody(f))
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/scim+json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body)
	}
}

// nameOf is the name of a user in the organization: userName, without the organization's domain.
func (h *Handler) nameOf(userName string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(userName), "@"+string(h.cfg.Domain))
	if _, err := wire.NewUserID(h.cfg.Domain, name); err != nil {
		return "", &fault{http.StatusBadRequest, "invalidValue", fmt.Sprintf("userName %.100q is not the name of a user here: %v", userName, err)}
	}
	return name, nil
}

// resource is a user as SCIM has one.
func (h *Handler) resource(u User) map[string]any {
	r := map[string]any{
		"schemas": []string{schemaUser}, "id": u.Name, "userName": u.Name, "active": u.Active,
		"meta": map[string]any{
			"resourceType": "User", "created": u.Created.UTC().Format(time.RFC3339), "lastModified": u.Modified.UTC().Format(time.RFC3339),
			"location": Path + "/Users/" + url.PathEscape(u.Name),
		},
	}
	if u.External != "" {
		r["externalId"] = u.External
	}
	return r
}

// representation is what a provider sends of a user. Other attributes are ignored.
type representation struct {
	UserName   string `json:"userName"`
	ExternalID string `json:"externalId"`
	Active     *truth `json:"active"`
}

// truth is a boolean, also as some providers write one: "True".
type truth bool

// UnmarshalJSON implements json.Unmarshaler.
func (t *truth) UnmarshalJSON(b []byte) error {
	switch strings.ToLower(strings.Trim(string(b), `"`)) {
	case "true":
		*t = true
	case "false":
		*t = false
	default:
		return fmt.Errorf("active is %.20q, wanted true or false", b)
	}
	return nil
}

func read(r *http.Request, v any) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return &fault{http.StatusBadRequest, "invalidSyntax", "the request broke off, or is too large"}
	}
	if len(raw) > maxBody {
		return &fault{http.StatusRequestEntityTooLarge, "", fmt.Sprintf("a request of more than %d bytes", maxBody)}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return &fault{http.StatusBadRequest, "invalidSyntax", wire.Line(err.Error())}
	}
	return nil
}

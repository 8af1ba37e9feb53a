package scim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mlsfed/mlsfed/wire"
)

// filterText is what is understood of RFC 7644 §3.4.2.2: one comparison.
var filterText = regexp.MustCompile(`^\s*(?i:(userName|externalId|id))\s+(?i:eq)\s+"((?:[^"\\]|\\.)*)"\s*$`)

// filter reads a filter into a judgement of users.
func (h *Handler) filter(text string) (func(User) bool, error) {
	if text == "" {
		return func(User) bool { return true }, nil
	}
	m := filterText.FindStringSubmatch(text)
	var value string
	if m == nil || json.Unmarshal([]byte(`"`+m[2]+`"`), &value) != nil {
		return nil, &fault{http.StatusBadRequest, "invalidFilter", `wanted userName, externalId or id, "eq" and a text in quotes`}
	}
	if strings.EqualFold(m[1], "externalId") {
		return func(u User) bool { return u.External == value && value != "" }, nil
	}
	name, err := h.nameOf(value)
	return func(u User) bool { return err == nil && u.Name == name }, nil
}

func (h *Handler) list(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	matches, err := h.filter(q.Get("filter"))
	if err != nil {
		return 0, nil, err
	}
	start, count := 1, maxPage
	for name, to := range map[string]*int{"startIndex": &start, "count": &count} {
		if text := q.Get(name); text != "" {
			if *to, err = strconv.Atoi(text); err != nil {
				return 0, nil, &fault{http.StatusBadRequest, "invalidValue", name + " is not a number"}
			}
		}
	}
	start, count = max(start, 1), min(max(count, 0), maxPage)
	users, err := h.cfg.Accounts.List(r.Context())
	if err != nil {
		return 0, nil, err
	}
	total, page := 0, []any{}
	for _, u := range users {
		if !matches(u) {
			continue
		}
		if total++; total >= start && len(page) < count {
			page = append(page, h.resource(u))
		}
	}
	return http.StatusOK, map[string]any{
		"schemas": []string{schemaList}, "totalResults": total, "startIndex": start, "itemsPerPage": len(page), "Resources": page,
	}, nil
}

func (h *Handler) get(r *http.Request) (int, any, error) {
	u, err := h.user(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, h.resource(u), nil
}

// user is the one that a request names.
func (h *Handler) user(r *http.Request) (User, error) {
	id := r.PathValue("id")
	if _, err := wire.NewUserID(h.cfg.Domain, id); err != nil {
		return User{}, wire.Errorf(wire.NotFound, "scim", "no such user")
	}
	return h.cfg.Accounts.Get(r.Context(), id)
}

func (h *Handler) create(r *http.Request) (int, any, error) {
	var sent representation
	if err := read(r, &sent); err != nil {
		return 0, nil, err
	}
	name, err := h.nameOf(sent.UserName)
	if err != nil {
		return 0, nil, err
	}
	switch old, err := h.cfg.Accounts.Get(r.Context(), name); {
	case err == nil && old.External != "":
		return 0, nil, &fault{http.StatusConflict, "uniqueness", fmt.Sprintf("there is a user %s already", name)}
	case err != nil && wire.CodeOf(err) != wire.NotFound:
		return 0, nil, err
	}
	u, err := h.cfg.Accounts.Set(r.Context(), name, sent.ExternalID, sent.Active == nil || bool(*sent.Active))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, h.resource(u), nil
}

func (h *Handler) replace(r *http.Request) (int, any, error) {
	u, err := h.user(r)
	if err != nil {
		return 0, nil, err
	}
	var sent representation
	if err := read(r, &sent); err != nil {
		return 0, nil, err
	}
	if err := h.sameName(u, sent.UserName); err != nil {
		return 0, nil, err
	}
	return h.change(r, u, sent.ExternalID, sent.Active == nil || bool(*sent.Active))
}

// sameName refuses another name: names are what members of conversations know people by.
func (h *Handler) sameName(u User, userName string) error {
	if name, err := h.nameOf(userName); err != nil || name != u.Name {
		return &fault{http.StatusBadRequest, "mutability", fmt.Sprintf("the name of %s cannot be changed: end this user, and make another one", u.Name)}
	}
	return nil
}

func (h *Handler) change(r *http.Request, u User, external string, active bool) (int, any, error) {
	u, err := h.cfg.Accounts.Set(r.Context(), u.Name, external, active)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, h.resource(u), nil
}

func (h *Handler) remove(r *http.Request) (int, any, error) {
	u, err := h.user(r)
	if err == nil {
		err = h.cfg.Accounts.Delete(r.Context(), u.Name)
	}
	return http.StatusNoContent, nil, err
}

// patchRequest is RFC 7644 §3.5.2.
type patchRequest struct {
	Schemas    []string `json:"schemas"`
	Operations []struct {
		Op    string          `json:"op"`
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value"`
	} `json:"Operations"`
}

// maxOperations bounds a patch.
const maxOperations = 100

func (h *Handler) patch(r *http.Request) (int, any, error) {
	u, err := h.user(r)
	if err != nil {
		return 0, nil, err
	}
	var q patchRequest
	if err := read(r, &q); err != nil {
		return 0, nil, err
	}
	if !slices.ContainsFunc(q.Schemas, func(s string) bool { return strings.EqualFold(s, schemaPatch) }) {
		return 0, nil, &fault{http.StatusBadRequest, "invalidSyntax", "wanted the schema " + schemaPatch}
	}
	if len(q.Operations) == 0 || len(q.Operations) > maxOperations {
		return 0, nil, &fault{http.StatusBadRequest, "invalidSyntax", fmt.Sprintf("%d operations, wanted 1 to %d", len(q.Operations), maxOperations)}
	}
	next := u
	for _, o := range q.Operations {
		if err := h.apply(&next, strings.ToLower(o.Op), strings.ToLower(o.Path), o.Value); err != nil {
			return 0, nil, err
		}
	}
	return h.change(r, u, next.External, next.Active)
}

// apply makes one change of a patch. An attribute that is not kept is passed over.
func (h *Handler) apply(u *User, op, path string, value json.RawMessage) error {
	invalid := func(err error) error {
		return &fault{http.StatusBadRequest, "invalidValue", wire.Line(fmt.Sprintf("%s: %v", path, err))}
	}
	switch op {
	case "add", "replace":
	case "remove":
		switch path {
		case "":
			return &fault{http.StatusBadRequest, "noTarget", "remove needs a path"}
		case "externalid":
			u.External = ""
		case "active", "username":
			return &fault{http.StatusBadRequest, "mutability", path + " cannot be removed"}
		}
		return nil
	default:
		return &fault{http.StatusBadRequest, "invalidSyntax", fmt.Sprintf("operation %.20q, wanted add, replace or remove", op)}
	}
	switch path {
	case "":
		parts := make(map[string]json.RawMessage)
		if err := json.Unmarshal(value, &parts); err != nil {
			return invalid(err)
		}
		for name, v := range parts {
			if name == "" {
				continue
			}
			if err := h.apply(u, op, strings.ToLower(name), v); err != nil {
				return err
			}
		}
	case "active":
		var t truth
		if err := json.Unmarshal(value, &t); err != nil {
			return invalid(err)
		}
		u.Active = bool(t)
	case "externalid":
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return invalid(err)
		}
		u.External = s
	case "username":
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return invalid(err)
		}
		return h.sameName(*u, s)
	}
	return nil
}

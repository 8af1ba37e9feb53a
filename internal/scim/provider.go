package scim

import "net/http"

// provider is what this service can do (RFC 7643 §5).
func (h *Handler) provider(*http.Request) (int, any, error) {
	no := map[string]any{"supported": false}
	return http.StatusOK, map[string]any{
		"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"},
		"patch":   map[string]any{"supported": true},
		"bulk":    map[string]any{"supported": false, "maxOperations": 0, "maxPayloadSize": 0},
		"filter":  map[string]any{"supported": true, "maxResults": maxPage},
		"sort":    no, "etag": no, "changePassword": no,
		"authenticationSchemes": []any{map[string]any{
			"type": "oauthbearertoken", "name": "Bearer token", "description": "The token in the file that scim.token_file names",
		}},
	}, nil
}

func listOf(resources ...any) any {
	return map[string]any{"schemas": []string{schemaList}, "totalResults": len(resources), "startIndex": 1, "itemsPerPage": len(resources), "Resources": resources}
}

func (h *Handler) types(*http.Request) (int, any, error) {
	return http.StatusOK, listOf(map[string]any{
		"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ResourceType"},
		"id":      "User", "name": "User", "endpoint": "/Users", "schema": schemaUser,
	}), nil
}

func (h *Handler) schemas(*http.Request) (int, any, error) {
	attribute := func(name, kind, mutability, uniqueness string, required bool) any {
		return map[string]any{
			"name": name, "type": kind, "multiValued": false, "required": required, "caseExact": false, "mutability": mutability, "returned": "default", "uniqueness": uniqueness,
		}
	}
	return http.StatusOK, listOf(map[string]any{
		"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Schema"},
		"id":      schemaUser, "name": "User",
		"attributes": []any{
			attribute("userName", "string", "immutable", "server", true),
			attribute("externalId", "string", "readWrite", "none", false),
			attribute("active", "boolean", "readWrite", "none", false),
		},
	}), nil
}

package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const prefix = "MLSFED_"

// elsewhere lists variables with the prefix that are not keys of the file.
var elsewhere = []string{
	"MLSFED_CONFIG", "MLSFED_LONG", "MLSFED_SEED", "MLSFED_LOG", "MLSFED_HOME", "MLSFED_PROFILE", "MLSFED_PASSPHRASE_FILE", "MLSFED_DEMO_FAULT",
	"MLSFED_AGENT", "MLSFED_MESSAGE", "MLSFED_FROM", "MLSFED_CONVERSATION",
}

// override sets the keys that the environment names. A variable with the prefix that names no key is an error, like
// an unknown key.
func override(c *Config, environment []string) error {
	keys := variables(c)
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, prefix) || contains(elsewhere, name) {
			continue
		}
		field, ok := keys[name]
		if !ok {
			return fmt.Errorf("environment: %s is the name of no key: 'mlsfed config example' lists them", name)
		}
		if err := set(field, value); err != nil {
			return fmt.Errorf("environment: %s: %w", name, err)
		}
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// variables maps the name of each key's variable to its field.
func variables(c *Config) map[string]reflect.Value {
	keys := make(map[string]reflect.Value)
	leaves(c, func(key string, v reflect.Value) {
		keys[prefix+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = v
	})
	return keys
}

// set parses the value in the format of the file; a list is separated by commas.
func set(field reflect.Value, value string) error {
	if field.Kind() == reflect.Slice {
		field.Set(reflect.ValueOf(strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })))
		return nil
	}
	if field.Kind() == reflect.String {
		field.SetString(value)
		return nil
	}
	return yaml.Unmarshal([]byte(value), field.Addr().Interface())
}

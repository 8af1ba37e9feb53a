package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const prefix = "MLSFED_"

// elsewhere are variables with the prefix that are not keys of the file.
var elsewhere = []string{
	"MLSFED_CONFIG", "MLSFED_LONG", "MLSFED_SEED", "MLSFED_LOG", "MLSFED_HOME", "MLSFED_PROFILE", "MLSFED_PASSPHRASE_FILE", "MLSFED_DEMO_FAULT",
}

// override sets the keys that the environment names. A variable with the prefix that names none is an
// error, as an unknown key is.
func override(c *Config, environment []string) error {
	keys := make(map[string]reflect.Value)
	collect(keys, prefix[:len(prefix)-1], reflect.ValueOf(c).Elem())
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

// collect maps the name of each key's variable to its field.
func collect(keys map[string]reflect.Value, path string, v reflect.Value) {
	for i := range v.NumField() {
		name := path + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		if f := v.Field(i); f.Kind() == reflect.Struct {
			collect(keys, name, f)
		} else {
			keys[name] = f
		}
	}
}

// set reads the value as the file would have it; a list is separated by commas.
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

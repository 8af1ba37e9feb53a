package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"
)

// imageUser is the user in the container, as in Dockerfile.
const imageUser = 65532

// health is the health check of the container.
type health struct {
	Test        []string
	Interval    time.Duration
	Timeout     time.Duration
	StartPeriod time.Duration
	Retries     int
}

// runtimeConfig is the configuration with which a container of the image starts. TestImageIsTheDockerfile compares it
// with Dockerfile, from which docker/build.sh builds the same image.
type runtimeConfig struct {
	User         string
	ExposedPorts map[string]struct{}
	Env          []string
	Entrypoint   []string
	Cmd          []string
	Volumes      map[string]struct{}
	StopSignal   string
	Healthcheck  health
	Labels       map[string]string `json:",omitempty"`
}

func imageConfig() runtimeConfig {
	return runtimeConfig{
		User:         "65532:65532",
		ExposedPorts: map[string]struct{}{"8443/tcp": {}, "7443/tcp": {}},
		Env:          []string{"MLSFED_CONFIG=/var/lib/mlsfed/mlsfed.yaml"},
		Entrypoint:   []string{"/mlsfed"},
		Cmd:          []string{"serve"},
		Volumes:      map[string]struct{}{"/var/lib/mlsfed": {}},
		StopSignal:   "SIGTERM",
		Healthcheck: health{
			Test:     []string{"CMD", "/mlsfed", "health"},
			Interval: 5 * time.Second, Timeout: 5 * time.Second, StartPeriod: 10 * time.Second, Retries: 3,
		},
	}
}

// descriptor names a blob of an OCI layout.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// image writes the container image: FROM scratch, the binary and an empty folder for data. The file is an OCI layout
// that 'docker load' can read too, through its manifest.json.
func (r *release) image(platform string) error {
	at, err := r.source.when()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(r.binaries[platform])
	if err != nil {
		return err
	}
	var layer strings.Builder
	if err := writeTar(&layer, []file{
		{name: "mlsfed", mode: 0o755, content: content},
		{name: "var", mode: 0o755},
		{name: "var/lib", mode: 0o755},
		{name: "var/lib/mlsfed", mode: 0o700, owner: imageUser},
	}, at); err != nil {
		return err
	}
	list, err := layout(layer.String(), platform, r.source, at)
	if err != nil {
		return err
	}
	return writeTo(r.name(platform, ".image.tar"), func(w io.Writer) error { return writeTar(w, list, at) })
}

// layout returns the files of the image's archive.
func layout(layer, platform string, s source, at time.Time) (list []file, err error) {
	goos, goarch, _ := strings.Cut(platform, "/")
	list = []file{{name: "blobs", mode: 0o755}, {name: "blobs/sha256", mode: 0o755}}
	blob := func(mediaType string, content []byte) descriptor {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		list = append(list, file{name: "blobs/sha256/" + digest, mode: 0o644, content: content})
		return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(content)}
	}
	encode := func(v any) (b []byte) {
		if err == nil {
			b, err = json.Marshal(v)
		}
		return b
	}
	config := imageConfig()
	config.Labels = map[string]string{
		"org.opencontainers.image.version":  s.Version,
		"org.opencontainers.image.revision": s.Commit,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	layerBlob := blob("application/vnd.oci.image.layer.v1.tar", []byte(layer))
	configBlob := blob("application/vnd.oci.image.config.v1+json", encode(map[string]any{
		"created": at.Format(time.RFC3339), "architecture": goarch, "os": goos, "config": config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
		"history": []map[string]any{{"created": at.Format(time.RFC3339), "created_by": "internal/release"}},
	}))
	manifest := blob("application/vnd.oci.image.manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": configBlob, "layers": []descriptor{layerBlob},
	}))
	manifest.Platform = map[string]string{"os": goos, "architecture": goarch}
	tag := strings.ReplaceAll(s.Version, "+", "_") // a tag has no plus sign
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
	path := func(d descriptor) string { return "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:") }
	for name, v := range map[string]any{
		"oci-layout": map[string]string{"imageLayoutVersion": "1.0.0"},
		"index.json": map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{manifest},
		},
		"manifest.json": []map[string]any{{
			"Config": path(configBlob), "RepoTags": []string{"mlsfed:" + tag}, "Layers": []string{path(layerBlob)},
		}},
	} {
		list = append(list, file{name: name, mode: 0o644, content: encode(v)})
	}
	sortFiles(list)
	return list, err
}

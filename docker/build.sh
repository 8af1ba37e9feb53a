#!/bin/sh
# Builds the image of a node: docker/build.sh [IMAGE], by default mlsfed:local.
#
# The binary is built here, by the Go of this machine, so that no image has to be pulled. With BINARY
# set, that binary is taken instead.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
image=${1:-${MLSFED_IMAGE:-mlsfed:local}}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/data"
chmod 700 "$context/data"
if [ -n "${BINARY:-}" ]; then
  cp "$BINARY" "$context/mlsfed"
else
  (cd "$root" && CGO_ENABLED=0 GOOS=linux go build -buildvcs=auto -trimpath -ldflags '-s -w' -o "$context/mlsfed" ./cmd/mlsfed)
fi
chmod 755 "$context" "$context/mlsfed"

# BuildKit is a plugin that is not installed everywhere; nothing here needs it.
DOCKER_BUILDKIT=0 docker build --quiet --file "$root/Dockerfile" --tag "$image" "$context" >&2
echo "$image is built." >&2

#!/bin/sh
# Brings a federation up on this machine and prints an invitation for a user of each organization.
# It may be called again: what is initialized stays as it is, and new invitations are printed.
#
#   sh docker/up.sh
#
# ORGANIZATIONS         which: 'a b c' by default; the fourth is d
# COMPOSE_PROJECT_NAME  names of containers, networks and volumes begin with it: mlsfed
# PORT_A …              ports on this machine where clients connect: 9441 and following
# MLSFED_IMAGE          an image that is built already; without it, docker/build.sh is called
# COMPOSE_FILE          files for Compose, if there is more than docker-compose.yml
# METRICS=1             starts Prometheus too, whose image must be pulled
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
organizations=${ORGANIZATIONS:-a b c}
COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-mlsfed}
COMPOSE_FILE=${COMPOSE_FILE:-$root/docker-compose.yml}
export COMPOSE_PROJECT_NAME

if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
else
  compose() { docker-compose "$@"; }
fi

services=$organizations
case " $organizations " in *' d '*) profiles=fourth ;; *) profiles='' ;; esac
if [ -n "${METRICS:-}" ]; then
  COMPOSE_FILE=$COMPOSE_FILE:$root/docker/metrics.yml
  profiles=$profiles${profiles:+,}metrics
  services="$services prometheus"
fi
export COMPOSE_FILE COMPOSE_PROFILES="$profiles"

if [ -z "${MLSFED_IMAGE:-}" ]; then
  MLSFED_IMAGE=mlsfed:local
  sh "$root/docker/build.sh" "$MLSFED_IMAGE"
fi
export MLSFED_IMAGE

port_of() {
  case $1 in
    a) echo "${PORT_A:-9441}" ;; b) echo "${PORT_B:-9442}" ;; c) echo "${PORT_C:-9443}" ;; d) echo "${PORT_D:-9444}" ;;
    *) echo "up.sh: no organization $1: a, b, c or d" >&2; exit 2 ;;
  esac
}

# once ORGANIZATION COMMAND … runs one command on an organization's volume, without a network.
once() {
  org=$1
  shift
  docker run --rm --interactive --network none --label "com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --volume "$COMPOSE_PROJECT_NAME-$org:/var/lib/mlsfed" "$MLSFED_IMAGE" "$@"
}

# The containers exist from here on, with their volumes, and do not run yet.
# shellcheck disable=SC2086 # a word each
compose up --no-start $services >&2

bundles=$(mktemp -d)
trap 'rm -rf "$bundles"' EXIT
for org in $organizations; do
  if ! once "$org" cert show </dev/null >/dev/null 2>&1; then
    once "$org" init --domain "$org.example" --dir /var/lib/mlsfed --gateway :8443 --public "127.0.0.1:$(port_of "$org")" \
      --federation :7443 --advertise "n1.$org.example:7443" </dev/null >&2
  fi
  # The bundle is what an operator hands to another one.
  docker cp "$COMPOSE_PROJECT_NAME-$org:/var/lib/mlsfed/bundle.json" "$bundles/$org.json" >/dev/null
done
for org in $organizations; do
  for other in $organizations; do
    if [ "$org" != "$other" ]; then
      once "$org" peer add /dev/stdin <"$bundles/$other.json" >&2
    fi
  done
done

# shellcheck disable=SC2086
compose up --detach --no-build $services >&2

# invite ORGANIZATION NAME prints an invitation once the node answers.
invite() {
  tries=60
  until link=$(docker exec "$COMPOSE_PROJECT_NAME-$1" /mlsfed user invite "$2" 2>/dev/null); do
    tries=$((tries - 1))
    if [ "$tries" = 0 ]; then
      docker logs --tail 20 "$COMPOSE_PROJECT_NAME-$1" >&2
      echo "up.sh: the node of $1.example does not answer" >&2
      exit 1
    fi
    sleep 0.5
  done
  printf '%s\n' "$link"
}

echo "Each link enrols one device, once: mlsfed login --device phone 'LINK'" >&2
for org in $organizations; do
  case $org in a) name=alice ;; b) name=bob ;; c) name=carol ;; d) name=dave ;; esac
  invite "$org" "$name"
done

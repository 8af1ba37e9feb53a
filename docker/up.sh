#!/bin/sh
# Brings a federation up on this machine and prints an invitation for a user of each organization.
# It may be called again: what is initialized stays as it is, and new invitations are printed.
#
#   sh docker/up.sh
#
# ORGANIZATIONS         which: 'a b c' by default; the fourth is d
# NODES                 of each organization: 1 by default, or 3 (the fourth organization always has one).
#                       Devices live on the first; the others keep the organization's vote while one is away
# COMPOSE_PROJECT_NAME  names of containers, networks and volumes begin with it: mlsfed
# PORT_A …              ports on this machine where clients connect: 9441 and following
# MLSFED_IMAGE          an image that is built already; without it, docker/build.sh is called
# COMPOSE_FILE          files for Compose, if there is more than docker-compose.yml
# MLSFED_COMPOSE        the command that is Compose, if not the one which is found
# METRICS=1             starts Prometheus too, whose image must be pulled
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
organizations=${ORGANIZATIONS:-a b c}
COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-mlsfed}
COMPOSE_FILE=${COMPOSE_FILE:-$root/docker-compose.yml}
export COMPOSE_PROJECT_NAME

compose() { sh "$root/docker/compose.sh" "$@"; }

# further ORGANIZATION prints the numbers of its nodes beside the first.
case ${NODES:-1} in
  1) further() { :; } ;;
  3) further() { if [ "$1" != d ]; then echo 2 3; fi; } ;;
  *) echo "up.sh: NODES is $NODES: 1 or 3" >&2; exit 2 ;;
esac

services=$organizations
profiles=''
for org in $organizations; do
  if [ "$org" = d ]; then profiles=fourth; fi
  for n in $(further "$org"); do services="$services $org$n"; done
done
if [ "${NODES:-1}" != 1 ]; then profiles=$profiles${profiles:+,}nodes; fi
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

# once SERVICE COMMAND … runs one command on a node's volume, without a network.
once() {
  service=$1
  shift
  docker run --rm --interactive --network none --label "com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --volume "$COMPOSE_PROJECT_NAME-$service:/var/lib/mlsfed" ${also:+--volume "$also"} "$MLSFED_IMAGE" "$@"
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
  for n in $(further "$org"); do
    if also=$COMPOSE_PROJECT_NAME-$org$n:/var/lib/further once "$org" add-node "n$n.$org.example" --dir /var/lib/further \
      --gateway :8443 --federation :7443 --advertise "n$n.$org.example:7443" </dev/null >&2 2>"$bundles/why"; then continue; fi
    if ! grep -q 'exists already' "$bundles/why"; then cat "$bundles/why" >&2; exit 1; fi
    for other in $organizations; do # it was made before: it may lack those that came since
      if [ "$org" != "$other" ]; then once "$org$n" peer add /dev/stdin <"$bundles/$other.json" >&2; fi
    done
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

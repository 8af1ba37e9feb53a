#!/bin/sh
# Stops the federation that docker/up.sh has started, and keeps its volumes. With --volumes they are
# removed too: keys and messages with them.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-mlsfed}
COMPOSE_FILE=${COMPOSE_FILE:-$root/docker-compose.yml}
export COMPOSE_PROJECT_NAME COMPOSE_FILE COMPOSE_PROFILES=fourth,nodes,metrics
sh "$root/docker/compose.sh" down --remove-orphans "$@"

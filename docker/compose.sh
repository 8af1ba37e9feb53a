#!/bin/sh
# Calls Compose: the command that MLSFED_COMPOSE names, or 'docker compose', or docker-compose 1.29.
set -eu
if [ -n "${MLSFED_COMPOSE:-}" ]; then
  # shellcheck disable=SC2086 # it may have words: 'docker compose'
  exec $MLSFED_COMPOSE "$@"
elif docker compose version >/dev/null 2>&1; then
  exec docker compose "$@"
elif command -v docker-compose >/dev/null; then
  exec docker-compose "$@"
fi
echo "compose.sh: neither 'docker compose' nor docker-compose is installed; MLSFED_COMPOSE may name another" >&2
exit 127

#!/bin/sh
# Tries the Debian packages of two releases as docs/install.md describes it, in a container without
# systemd: install, start, upgrade a node with data, go back, refuse newer data, remove.
#
#   sh docker/try-package.sh FIRST.deb SECOND.deb [IMAGE]
#
# IMAGE is a plain Debian, debian:12 by default. The container has no network. Run it before a release
# is published.
set -eu
if [ $# -lt 2 ]; then echo 'usage: try-package.sh FIRST.deb SECOND.deb [IMAGE]' >&2; exit 2; fi
name=mlsfed-try-$$
folder=/var/lib/mlsfed

box() { docker exec -i "$name" "$@"; }
node() { docker exec -i -e MLSFED_CONFIG=$folder/mlsfed.yaml "$name" runuser -u mlsfed -- mlsfed "$@"; }
fail() { echo "try-package.sh: $*" >&2; exit 1; }

# serve starts the node and waits until it is healthy.
serve() {
  docker exec -d -e MLSFED_CONFIG=$folder/mlsfed.yaml "$name" \
    runuser -u mlsfed -- sh -c "exec mlsfed serve >>$folder/log 2>&1"
  tries=240
  until node health >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" = 0 ]; then box cat $folder/log >&2; fail 'the node does not start'; fi
    sleep 0.5
  done
}

# stop ends the node in good order.
stop() {
  box sh -c 'file=$(grep -lx mlsfed /proc/[0-9]*/comm | head -n 1); pid=${file#/proc/}; pid=${pid%/comm}
    kill -TERM "$pid"; while [ -d "/proc/$pid" ]; do sleep 0.1; done'
}

# reads NAME TEXT checks that a person has a message.
reads() { box mlsfed read Lunch --profile "$1@a.example" 2>&1 | grep -F "$2" >/dev/null || fail "$1 does not read '$2'"; }
say() { box mlsfed send Lunch "$2" --profile "$1@a.example" >/dev/null; }

# refused COMMAND … checks that the node's data is refused as too new.
refused() {
  if out=$(node "$@" 2>&1); then fail "mlsfed $1 accepts data of a newer format"; fi
  case $out in *'has format 2, written by mlsfed v9.9.9'*) ;; *) fail "mlsfed $1: $out" ;; esac
}

docker run --detach --name "$name" --network none "${3:-debian:12}" sleep 86400 >/dev/null
trap 'docker rm --force "$name" >/dev/null' EXIT
docker cp "$1" "$name:/first.deb"
docker cp "$2" "$name:/second.deb"

echo 'install and start'
box dpkg -i /first.deb >/dev/null
first=$(box mlsfed version)
[ "$(box stat -c '%a %U:%G' $folder)" = '700 mlsfed:mlsfed' ] || fail "$folder is not the node's alone"
node init --domain a.example --dir $folder >/dev/null
serve
for person in alice bob; do box mlsfed login "$(node user invite $person 2>/dev/null)" >/dev/null 2>&1; done
box mlsfed create Lunch bob --profile alice@a.example >/dev/null
say alice 'Soup?'

echo 'upgrade over the running node'
node backup $folder/before.tar >/dev/null 2>&1
box dpkg -i /second.deb >/dev/null
[ "$(box mlsfed version)" != "$first" ] || fail 'both packages have the same version'
say alice 'The old process serves.'
stop
serve
say alice 'The new one does.'
for text in 'Soup?' 'The old process serves.' 'The new one does.'; do reads bob "$text"; done

echo 'go back, with the same format'
box dpkg -i /first.deb >/dev/null 2>&1
stop
serve
say bob 'The older release goes on.'
reads alice 'The older release goes on.'
stop

echo 'refuse data of a newer format, unchanged'
box sh -ec "cp -p $folder/data/format /format
  echo '{\"format\":2,\"version\":\"v9.9.9\"}' >$folder/data/format
  find $folder/data -type f -exec sha256sum {} + | sort >/sums"
refused serve
refused config check
box sh -ec "find $folder/data -type f -exec sha256sum {} + | sort | cmp - /sums; cp -p /format $folder/data/format"
box sh -ec "mkdir /newer && cd /newer && tar xf $folder/before.tar
  echo '{\"format\":2,\"version\":\"v9.9.9\"}' >data/format
  tar cf /newer.tar --format=ustar backup.json \$(find data identity -type f) end && chmod 644 /newer.tar
  mv $folder/data $folder/data.old"
refused restore /newer.tar
[ -z "$(box sh -c "ls -d $folder/data* | grep -v data.old" || true)" ] || fail 'a refused restoration leaves something'

echo 'restore the backup from before the upgrade'
node restore $folder/before.tar >/dev/null
serve
reads bob 'Soup?'
stop

echo 'remove and purge'
box dpkg -P mlsfed >/dev/null 2>&1
box test -d $folder/data/identity || fail 'a purge removes keys'
if box test -e /usr/bin/mlsfed; then fail 'the binary is still there'; fi
echo 'passed'

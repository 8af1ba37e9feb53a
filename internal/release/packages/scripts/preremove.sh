#!/bin/sh
# Before a removal, not before an upgrade: stop the node. The first argument is a word in a Debian
# package, and in an RPM package the number of versions that stay installed.
set -e
case ${1:-} in
  remove | 0)
    if [ -d /run/systemd/system ]; then systemctl disable --now mlsfed.service; fi
    ;;
esac
exit 0

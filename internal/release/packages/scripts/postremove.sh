#!/bin/sh
# After a removal. /var/lib/mlsfed stays, also at a purge: it holds the organization's root key and
# what people have sent.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ "${1:-}" = purge ] && [ -d /var/lib/mlsfed ]; then
  echo 'mlsfed: /var/lib/mlsfed is left: it holds keys and messages. Remove it by hand if nobody needs them.' >&2
fi
exit 0

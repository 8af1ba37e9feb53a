#!/bin/sh
# After an installation and after an upgrade: the user, the folder, and a running node in its new build.
set -e
if ! getent passwd mlsfed >/dev/null; then
  useradd --system --user-group --home-dir /var/lib/mlsfed --no-create-home --shell /usr/sbin/nologin mlsfed
fi
if [ ! -d /var/lib/mlsfed ]; then
  install -d -o mlsfed -g mlsfed -m 0700 /var/lib/mlsfed
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart mlsfed.service # only a node that runs
fi
exit 0

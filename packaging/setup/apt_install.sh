#!/usr/bin/env bash
# Run as root by setup.sh, once: `apt_install.sh PACKAGE...` installs Debian or Ubuntu packages. A redis-server that comes in
# this way is neither started nor enabled: a checkout runs its own on its own port, and nobody asked for another on 6379.
# One that was installed before is left as it is.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive LC_ALL=C
policy=/usr/sbin/policy-rc.d
ours=''
cleanup() { [ -z "$ours" ] || rm -f "$policy"; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

new_redis=''
case " $* " in
  *' redis-server '*) dpkg-query -W -f '${Status}' redis-server 2>/dev/null | grep -q 'ok installed' || new_redis=yes ;;
esac
if [ -n "$new_redis" ] && [ ! -e "$policy" ]; then
  ours=yes
  cat >"$policy" <<'POLICY'
#!/bin/sh
# there for a moment only, put by YADTQ's setup.sh
case $1 in redis*) exit 101 ;; esac
exit 0
POLICY
  chmod 755 "$policy"
fi
options=(-q -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
apt-get "${options[@]}" update
apt-get "${options[@]}" install --no-install-recommends "$@"
if [ -n "$new_redis" ] && command -v systemctl >/dev/null; then
  systemctl disable redis-server.service || true
fi

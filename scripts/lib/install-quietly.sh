#!/usr/bin/env bash
# install-quietly.sh PACKAGE...: installs Debian packages without their services being started, now or at a later boot.
# Run as root.
set -euo pipefail

policy=/usr/sbin/policy-rc.d
kept=$policy.kept-by-tests

# invoke-rc.d asks this program before it starts anything; 101 means: do not. What was there comes back at the end.
[[ ! -e $policy ]] || mv "$policy" "$kept"
restore() {
  rm --force "$policy"
  [[ ! -e $kept ]] || mv "$kept" "$policy"
}
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends \
  -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install "$@"

for package; do
  dpkg --listfiles "$package" | sed --quiet --regexp-extended 's#^/lib/systemd/system/([^/@]+\.(service|socket|timer))$#\1#p'
done | xargs --no-run-if-empty systemctl --quiet --no-reload disable

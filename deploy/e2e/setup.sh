#!/usr/bin/env bash
# Installs what the acceptance tests want beside Go, Java and Maven: kcat, the command of librdkafka. Without it the
# tests that need it are skipped and say so. For Debian and its children; does nothing when kcat is there.
set -euo pipefail
command -v kcat >/dev/null && { echo "kcat: $(kcat -V | sed -n 's/^Version //p')"; exit 0; }
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "kcat: absent; install it with your package manager" >&2; exit 3; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends kcat >/dev/null
echo "kcat: $(kcat -V | sed -n 's/^Version //p')"

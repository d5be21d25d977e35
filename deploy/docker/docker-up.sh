#!/usr/bin/env bash
# Makes sure that a Docker engine answers, also on a machine without an init system: installs Debian's docker.io when
# there is none and starts dockerd by hand. Does nothing when one answers. "docker-up.sh down" ends the engine that it
# started. Exit code 3: there is no engine and it cannot be installed here.
set -euo pipefail
PID=${DOCKERD_PID:-/var/run/dockerd-by-hand.pid}
LOG=${DOCKERD_LOG:-/var/log/dockerd-by-hand.log}

ours() { [ -s "$PID" ] && grep -qsx dockerd "/proc/$(cat "$PID")/comm"; }

if [ "${1:-up}" = down ]; then
  ours || exit 0
  docker ps -aq --filter label=org.testcontainers=true | xargs -r docker rm -fv >/dev/null
  p=$(cat "$PID")
  kill "$p"
  for _ in $(seq 150); do [ -e "/proc/$p" ] || exit 0; sleep 0.1; done
  echo "docker engine: dockerd $p does not stop" >&2
  exit 1
fi

if docker info >/dev/null 2>&1; then
  echo "docker engine: already up"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "docker engine: absent, and not root" >&2; exit 3; }
if ! command -v dockerd >/dev/null; then
  command -v apt-get >/dev/null || { echo "docker engine: absent, and no apt-get" >&2; exit 3; }
  apt-get update -qq
  # busybox-static is for kafka-image.sh.
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io iptables busybox-static >/dev/null
fi
if ! ours; then
  rm -f "$PID" # a stale pid file makes dockerd refuse to start
  # shellcheck disable=SC2086 # several flags in one variable
  setsid nohup dockerd --pidfile "$PID" -H unix:///var/run/docker.sock ${DOCKERD_FLAGS-} </dev/null >>"$LOG" 2>&1 &
fi
for _ in $(seq 300); do
  if docker info >/dev/null 2>&1; then
    echo "docker engine: up, $(docker info -f '{{.ServerVersion}} {{.Driver}} cgroup v{{.CgroupVersion}}')"
    exit 0
  fi
  sleep 0.1
done
echo "docker engine: does not come up; the end of $LOG:" >&2
tail -n 20 "$LOG" >&2
exit 1

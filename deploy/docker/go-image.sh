#!/usr/bin/env bash
# Builds a local stand-in for the official image golang, of the version that the Dockerfile names, where no container
# registry can be reached: this machine's Go, busybox, the certificates, and the modules that the services need, which
# the build then takes from a folder instead of the network. The real image, and a stand-in that has the modules that are
# needed now, are left alone; FORCE=1 builds again.
#
# Needs a Docker engine (docker-up.sh), Go, busybox-static and /etc/ssl/certs/ca-certificates.crt.
set -euo pipefail
cd "$(dirname "$0")/../.."
IMAGE=${GO_IMAGE:-$(sed -n 's/^ARG GO_IMAGE=//p' deploy/docker/Dockerfile)}
log() { printf '%s go-image: %s\n' "$(date +%T)" "$*" >&2; }

MODULES=$(cat services/go.mod services/go.sum | sha256sum | cut -c1-16)
if [ -z "${FORCE:-}" ] && has=$(docker image inspect -f '{{index .Config.Labels "znshub.go-image"}}' "$IMAGE" 2>/dev/null) &&
  { [ -z "$has" ] || [ "$has" = "$MODULES" ]; }; then
  log "$IMAGE is there, nothing to do"; exit 0
fi
for c in docker go busybox tar; do
  command -v "$c" >/dev/null || { log "missing: $c"; exit 1; }
done
W=$(mktemp -d "${TMPDIR:-/tmp}/go-image.XXXXXX")
trap 'chmod -R u+w "$W"; rm -rf "$W"' EXIT
R=$W/root
mkdir -p "$R"/{bin,etc/ssl/certs,tmp,root,go/bin,usr/local}
cp "$(command -v busybox)" "$R/bin/busybox"
for a in $("$R/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$R/bin/$a"; done
cp -L /etc/ssl/certs/ca-certificates.crt "$R/etc/ssl/certs/"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$R/etc/passwd"
cp -a "$(go env GOROOT)" "$R/usr/local/go"

# The download cache of a GOMODCACHE is a module proxy; one of its own holds no more than the services need.
log "collecting modules"
(cd services && GOWORK=off GOFLAGS=-modcacherw GOMODCACHE="$W/mod" GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" \
  GONOSUMDB='*' go mod download)
mv "$W/mod/cache/download" "$R/go/proxy"
log "importing $IMAGE"
tar -C "$R" --numeric-owner --owner=0 --group=0 -cf - . | docker import \
  -c 'ENV PATH=/usr/local/go/bin:/go/bin:/bin GOPATH=/go HOME=/root GOPROXY=file:///go/proxy GONOSUMDB=*' \
  -c "LABEL znshub.go-image=$MODULES" -c 'WORKDIR /go' - "$IMAGE" >/dev/null
log "done: $(go env GOVERSION), $(docker image inspect -f '{{.Size}}' "$IMAGE") bytes"

#!/usr/bin/env bash
# Builds a local stand-in for Jaeger's image where no container registry can be reached: the program that
# "make jaeger-check" builds from the Go module proxy, which serves the query API and takes OTLP, without a user
# interface. It has a name of its own, znshub/jaeger-stand-in:VERSION, which is printed.
set -euo pipefail
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/znshub/jaeger
BINARY=$(ls -d "$CACHE"/v*/all-in-one 2>/dev/null | sort -V | tail -n 1)
[ -n "$BINARY" ] || { echo "jaeger-image: no Jaeger in $CACHE yet; make jaeger-check builds it" >&2; exit 1; }
IMAGE=znshub/jaeger-stand-in:$(basename "$(dirname "$BINARY")")
if [ -n "${FORCE:-}" ] || ! docker image inspect "$IMAGE" >/dev/null 2>&1; then
  R=$(mktemp -d "${TMPDIR:-/tmp}/jaeger-image.XXXXXX")
  trap 'rm -rf "$R"' EXIT
  mkdir "$R/tmp"
  chmod 1777 "$R/tmp"
  cp "$BINARY" "$R/jaeger"
  # What the program was linked with; nothing when it is static.
  ldd "$BINARY" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | while read -r so; do install -D "$so" "$R$so"; done
  tar -C "$R" --numeric-owner --owner=0 --group=0 -cf - . | docker import -c 'USER 10001' \
    -c 'ENTRYPOINT ["/jaeger", "--collector.otlp.enabled=true", "--collector.otlp.http.host-port=:4318", "--query.http-server.host-port=:16686"]' \
    - "$IMAGE" >/dev/null
fi
echo "$IMAGE"

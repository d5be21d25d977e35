#!/usr/bin/env bash
# Runs the test of the whole path on a broker in a container, and provides for what it needs as far as this machine
# allows: an engine (docker-up.sh), and the image, pulled or else built (kafka-image.sh). Where that cannot be had it
# says why and ends well: the same path is tested on a local broker. Once it is there the test must run and pass.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "container test: SKIPPED, $*"; exit 0; }

began=$SECONDS
command -v docker >/dev/null && docker info >/dev/null 2>&1 && found=yes || found=
# Bounded: a package mirror or a registry that hangs must not take the run with it.
if ! said=$(timeout 180 deploy/docker/docker-up.sh 2>&1); then
  echo "$said" >&2
  skip "there is no Docker engine and none can be started here"
fi
echo "$said"
# An engine that was started here is ended here; one that was found is left alone.
[ -n "$found" ] || trap 'deploy/docker/docker-up.sh down' EXIT

version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' pkg/kafka/kafkatest/local/pom.xml)
image=apache/kafka:$version
if ! docker image inspect "$image" >/dev/null 2>&1 && ! timeout 120 docker pull -q "$image" 2>/dev/null; then
  if ! timeout 300 deploy/docker/kafka-image.sh; then
    skip "$image can be neither pulled nor built here"
  fi
fi
echo "container test: engine and image ready after $((SECONDS - began)) s"
# The environment chooses the broker of other tests; this one starts its own.
env -u KAFKA_BROKERS -u ZNS_TEST_BROKER TESTCONTAINERS_RYUK_DISABLED=true ZNS_TEST_REQUIRE_DOCKER=1 \
  go test -count=1 -timeout 10m -run '^TestBrokerInAContainer$' ./deploy/e2e
echo "container test: done after $((SECONDS - began)) s"

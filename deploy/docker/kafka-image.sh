#!/usr/bin/env bash
# Builds a local stand-in for the official image apache/kafka, of the version that the tests run, where no container
# registry can be reached: Kafka's jars from Maven Central, a JRE made by jlink, busybox and bash, configured by KAFKA_*
# variables through the official image's own translation, which ships in the kafka jar. An image of that name, ours or
# the real one, is left alone; FORCE=1 builds again. Takes half a minute.
#
# Needs a Docker engine (docker-up.sh), a JDK with jlink, busybox-static and, unless KAFKA_LIBS names a folder with the
# jars, mvn.
set -euo pipefail
POM=$(cd "$(dirname "$0")/../.." && pwd)/pkg/kafka/kafkatest/local/pom.xml
V=${KAFKA_VERSION:-$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$POM")}
IMAGE=${KAFKA_IMAGE:-apache/kafka:$V}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/znshub/kafka-image
LIBS=${KAFKA_LIBS:-$CACHE/libs-$V}
JDK=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v javac || command -v java)")")")}
log() { printf '%s kafka-image: %s\n' "$(date +%T)" "$*" >&2; }

if [ -z "${FORCE:-}" ] && docker image inspect "$IMAGE" >/dev/null 2>&1; then
  log "$IMAGE is there, nothing to do"; exit 0
fi
for c in docker tar ldd "$JDK/bin/jlink" busybox bash; do
  command -v "$c" >/dev/null || { log "missing: $c"; exit 1; }
done
mkdir -p "$CACHE"
exec 9>"$CACHE/lock"; flock 9                   # two test jobs may race to build it
if [ -z "${FORCE:-}" ] && docker image inspect "$IMAGE" >/dev/null 2>&1; then exit 0; fi
W=$(mktemp -d "${TMPDIR:-/tmp}/kafka-image.XXXXXX"); R=$W/root
cleanup() { docker rm -fv "kafka-cds-$$" >/dev/null 2>&1 || true
            docker rmi "$IMAGE-stage" >/dev/null 2>&1 || true; rm -rf "$W"; }
trap cleanup EXIT

# 1. jars, as the pom of the local broker lists them.
if ! ls "$LIBS"/kafka_*-"$V".jar "$LIBS"/log4j-slf4j-impl-*.jar >/dev/null 2>&1; then
  log "fetching jars with mvn into $LIBS"
  rm -rf "$LIBS.tmp"
  mvn -q -B -f "$POM" dependency:copy-dependencies -DincludeScope=runtime -Dkafka.version="$V" -DoutputDirectory="$LIBS.tmp"
  rm -rf "$LIBS"; mv "$LIBS.tmp" "$LIBS"
fi

# 2. root file system: merged-/usr layout, jlinked JRE, busybox, bash, the shared libs of those.
log "building root file system"
mkdir -p "$R"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc/kafka/docker,etc/kafka/secrets,opt/java,opt/kafka/{bin,libs,config,logs},mnt/shared/config,var/lib/kafka/data,home/appuser,root,tmp,proc,sys,dev}
ln -s usr/bin "$R/bin"; ln -s usr/sbin "$R/sbin"; ln -s usr/lib "$R/lib"; ln -s usr/lib64 "$R/lib64"
"$JDK/bin/jlink" --module-path "$JDK/jmods" --output "$R/opt/java/openjdk" \
  --add-modules java.base,java.desktop,java.logging,java.management,java.management.rmi,java.naming,java.net.http,java.rmi,java.security.jgss,java.security.sasl,java.sql,java.xml,jdk.crypto.ec,jdk.management,jdk.management.agent,jdk.unsupported,jdk.zipfs \
  --no-header-files --no-man-pages --strip-java-debug-attributes
cp "$(command -v busybox)" "$R/usr/bin/busybox"
for a in $("$R/usr/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$R/usr/bin/$a"; done
cp "$(command -v bash)" "$R/usr/bin/bash"
find "$R/opt/java/openjdk" -type f \( -path '*/bin/*' -o -name '*.so' \) ! -name 'libawt*' ! -name 'lib*awt.so' \
     ! -name 'libfontmanager.so' ! -name 'libsplashscreen.so' ! -name 'libjavajpeg.so' ! -name 'liblcms.so' -print0 |
  xargs -0 ldd "$(command -v bash)" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | grep -v "^$W" | sort -u |
  { cat; ls /lib/x86_64-linux-gnu/lib{nss_files,nss_dns,resolv,stdc++,gcc_s}.so.? 2>/dev/null || true; } | sort -u |
  while read -r so; do                                                   # names as the loader asks for them
    [ -e "$so" ] || continue
    case $so in /lib64/*) d=usr/lib64 ;; *) d=usr/lib/$(basename "$(dirname "$so")") ;; esac
    mkdir -p "$R/$d"; cp -L "$so" "$R/$d/"
  done
[ ! -d "$R/usr/lib/lib" ] || { mv "$R"/usr/lib/lib/* "$R/usr/lib/"; rmdir "$R/usr/lib/lib"; }
cp "$LIBS"/*.jar "$R/opt/kafka/libs/"
printf 'root:x:0:0:root:/root:/bin/bash\nappuser:x:1000:1000::/home/appuser:/bin/bash\n' >"$R/etc/passwd"
printf 'root:x:0:\nappuser:x:1000:\n' >"$R/etc/group"
printf 'hosts: files dns\n' >"$R/etc/nsswitch.conf"

# 3. scripts, laid out as in the official image.
cat >"$R/opt/kafka/bin/kafka-run-class.sh" <<'S'
#!/usr/bin/env bash
exec java ${KAFKA_HEAP_OPTS--Xmx1G -Xms256m} ${KAFKA_JVM_PERFORMANCE_OPTS--XX:+UseG1GC -XX:MaxGCPauseMillis=20 -Djava.awt.headless=true} \
  ${CDS_OPTS-} ${KAFKA_JMX_OPTS-} -Dkafka.logs.dir=/opt/kafka/logs \
  ${KAFKA_LOG4J_OPTS--Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml} \
  -cp '/opt/kafka/libs/*' ${KAFKA_OPTS-} "$@"
S
printf '#!/usr/bin/env bash\nexec /opt/kafka/bin/kafka-run-class.sh kafka.Kafka "$@"\n' >"$R/opt/kafka/bin/kafka-server-start.sh"
printf '#!/usr/bin/env bash\nexec /opt/kafka/bin/kafka-run-class.sh kafka.tools.StorageTool "$@"\n' >"$R/opt/kafka/bin/kafka-storage.sh"
# kafka.docker.KafkaDockerWrapper is the official image's own KAFKA_* -> server.properties
# translation and storage format; it ships in the kafka jar.
cat >"$R/etc/kafka/docker/run" <<'S'
#!/usr/bin/env bash
set -o errexit
for kv in "$@"; do export "$kv"; done                     # "run KEY=value ..." as officially
export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
if [ -z "${KAFKA_LISTENERS-}" ] && [ "${KAFKA_PROCESS_ROLES-}" != controller ] && [ -n "${KAFKA_ADVERTISED_LISTENERS-}" ]; then
  export KAFKA_LISTENERS=$(echo "$KAFKA_ADVERTISED_LISTENERS" | sed -e 's|://[^:]*:|://0.0.0.0:|g')
fi
echo "===> Configuring ..."
cp /etc/kafka/docker/log4j2.yaml /opt/kafka/config/log4j2.yaml
out=$(CDS_OPTS=${CDS_SETUP_OPTS--XX:SharedArchiveFile=/opt/kafka/storage.jsa} KAFKA_JVM_PERFORMANCE_OPTS=-XX:TieredStopAtLevel=1 KAFKA_OPTS= KAFKA_JMX_OPTS= \
  /opt/kafka/bin/kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
  --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) ||
  echo "$out" | grep -i 'already formatted' || { echo "$out"; exit 1; }
echo "===> Launching ..."
export CDS_OPTS=${CDS_OPTS--XX:SharedArchiveFile=/opt/kafka/kafka.jsa}
exec /opt/kafka/bin/kafka-server-start.sh /opt/kafka/config/server.properties
S
cat >"$R/etc/kafka/docker/log4j2.yaml" <<'S'
Configuration:
  Properties:
    Property:
      - name: "logPattern"
        value: "[%d] %p %m (%c)%n"
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: "${logPattern}"
  Loggers:
    Root:
      level: INFO
      AppenderRef:
        - ref: STDOUT
    Logger:
      - name: org.apache.kafka
        level: INFO
S
sed 's/level: INFO/level: WARN/' "$R/etc/kafka/docker/log4j2.yaml" >"$R/etc/kafka/docker/tools-log4j2.yaml"
cat >"$R/etc/kafka/docker/server.properties" <<'S'
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=/tmp/kraft-combined-logs
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
S
chmod 755 "$R"/opt/kafka/bin/*.sh "$R/etc/kafka/docker/run"
chmod 1777 "$R/tmp"
# A plain start of the JRE's own CDS archive, then (step 5) one each for setup and broker.
"$R/opt/java/openjdk/bin/java" -Xshare:dump >/dev/null

# 4. import: no builder, no base image, one layer.
import() { tar -C "$R" --numeric-owner --owner=0 --group=0 --exclude=./opt/kafka --exclude=./etc/kafka --exclude=./mnt/shared --exclude=./var/lib/kafka --exclude=./home/appuser -cf "$W/i.tar" .
           tar -C "$R" --numeric-owner --owner=1000 --group=1000 -rf "$W/i.tar" ./opt/kafka ./etc/kafka ./mnt/shared ./var/lib/kafka ./home/appuser
           docker import -c 'ENV PATH=/opt/java/openjdk/bin:/usr/bin:/usr/sbin:/opt/kafka/bin JAVA_HOME=/opt/java/openjdk LANG=C.UTF-8' \
             -c 'LABEL znshub.kafka-image=true' -c 'EXPOSE 9092' -c 'USER appuser' -c 'WORKDIR /' -c 'CMD ["/etc/kafka/docker/run"]' "$W/i.tar" "$1" >/dev/null; rm "$W/i.tar"; }
if [ -z "${NO_CDS:-}" ]; then
# 5. AppCDS: run once, keep the class archives. Optional: a JVM without them just starts slower.
  log "training run for the CDS archives"
  import "$IMAGE-stage"
  docker run -d --name "kafka-cds-$$" -e CDS_SETUP_OPTS=-XX:ArchiveClassesAtExit=/tmp/storage.jsa \
    -e CDS_OPTS=-XX:ArchiveClassesAtExit=/tmp/kafka.jsa "$IMAGE-stage" >/dev/null
  for _ in $(seq 120); do
    case $(docker logs "kafka-cds-$$" 2>&1) in *'Kafka Server started'*) break ;; esac
    [ "$(docker inspect -f '{{.State.Running}}' "kafka-cds-$$")" = true ] || { log "training run died"; docker logs "kafka-cds-$$" >&2; exit 1; }
    sleep 0.5
  done
  docker stop -t 60 "kafka-cds-$$" >/dev/null
  for a in storage kafka; do docker cp "kafka-cds-$$:/tmp/$a.jsa" "$R/opt/kafka/$a.jsa" || log "no $a.jsa; going on without"; done
fi
log "importing $IMAGE"
old=$(docker image inspect -f '{{.Id}}' "$IMAGE" 2>/dev/null || true)
import "$IMAGE"
[ -z "$old" ] || docker rmi "$old" >/dev/null 2>&1 || true
log "done: $(docker image inspect -f '{{.Size}}' "$IMAGE") bytes"

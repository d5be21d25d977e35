# make help lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := help

BUF := go run github.com/bufbuild/buf/cmd/buf@v1.75.0
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
GOTESTSUM := go run gotest.tools/gotestsum@v1.13.0
MODULES := $(shell go list -m -f '{{.Dir}}')
# testcontainers-go has a transitive requirement that only Windows needs and that not every proxy serves, so
# deploy/e2e cannot be tidied everywhere.
TIDY_MODULES := $(filter-out %/deploy/e2e,$(MODULES))
# Starts a local Apache Kafka for the command behind it, or uses KAFKA_BROKERS, or says why it cannot.
WITH_KAFKA := go run ./pkg/kafka/kafkatest/cmd/kafka-local --
# The race detector wants a C compiler.
RACE := $(if $(shell command -v cc || command -v gcc),-race)
# Extra flags for go test, for example: make test TESTFLAGS='-run TestRestore'
TESTFLAGS ?=

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## Build every program into bin/.
	go build -trimpath -o bin/ ./services/cmd/...

.PHONY: demo
demo: ## Show the main job with telling cases; ends by itself, exit code 0 only if its sums are right.
	@go run ./services/cmd/zns demo

.PHONY: test
test: ## Run all tests, on a real Kafka when java and mvn are here (or KAFKA_BROKERS says where one is).
	@mkdir -p bin
	@$(WITH_KAFKA) $(GOTESTSUM) --format pkgname --hide-summary=skipped,output --jsonfile bin/test.json \
		--post-run-command 'go run ./deploy/e2e/cmd/test-summary' \
		-- $(RACE) -shuffle=on -p 1 -timeout 20m $(TESTFLAGS) work

.PHONY: test-long
test-long: ## The tests that take minutes each: epoch roll-over, large ledgers, long outages.
	@ZNS_TEST_LONG=1 $(MAKE) test TESTFLAGS="-timeout 60m $(TESTFLAGS)"

.PHONY: bench
bench: ## Measure the sender beside a plain consume loop on the same broker; writes bench.json.
	@$(WITH_KAFKA) go run ./deploy/e2e/cmd/bench

# make chaos SEED=7 MINUTES=10; SEED=0 chooses one.
SEED ?= 0
MINUTES ?= 3
.PHONY: chaos
chaos: ## Kill, stop, cut off and mislead the whole system for MINUTES, as SEED says, and do the sums; exit 1 when one is wrong.
	@go run ./deploy/e2e/cmd/chaos --seed $(SEED) --minutes $(MINUTES)

# make simulate SEEDS=1000 DAYS=1; a seed that fails prints how to replay it.
SEEDS ?= 50
DAYS ?= 7
.PHONY: simulate
simulate: ## Simulate DAYS of trouble in virtual time for each of SEEDS seeds.
	@go test ./services/simtest -run TestSeeds -timeout 0 -v -seeds $(SEEDS) -days $(DAYS) | grep -vE '^ *(=== |--- PASS)|^PASS'

.PHONY: jaeger-check
jaeger-check: ## Run one notification through three processes and assert its trace in a real Jaeger.
	@$(WITH_KAFKA) go run ./deploy/e2e/cmd/jaeger-check

IMAGES := zns sender webhook-ingest zalo-sim
# The tag of the images.
ZNS_VERSION ?= dev
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) -f deploy/compose.yaml

.PHONY: need-compose
need-compose:
	@docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || \
		{ echo "neither 'docker compose' nor docker-compose is here: install Docker's compose plugin, or run 'bin/zns dev', which needs no containers" >&2; exit 1; }

.PHONY: images
images: ## Build the images znshub/{zns,sender,webhook-ingest,zalo-sim}:$ZNS_VERSION (dev); needs Docker alone.
	@for p in $(IMAGES); do \
		docker build -f deploy/docker/Dockerfile --build-arg PROGRAM=$$p \
			--build-arg VERSION="$$(git describe --tags --always --dirty 2>/dev/null || echo devel)" \
			--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || true)" -t "znshub/$$p:$(ZNS_VERSION)" .; \
	done

.PHONY: up
up: need-compose ## Start Kafka, the hub, the simulator and Jaeger in containers (deploy/compose.yaml) and wait until they are ready.
	@ZNS_VERSION=$(ZNS_VERSION) $(COMPOSE) up --detach --wait

.PHONY: down
down: need-compose ## Stop what 'make up' started; Kafka's data and the spool are kept.
	@$(COMPOSE) down

.PHONY: stand-ins
stand-ins: ## Where no container registry can be reached: an engine, and images in place of Kafka's, Go's and Jaeger's.
	@deploy/docker/docker-up.sh
	@deploy/docker/kafka-image.sh
	@deploy/docker/go-image.sh
	@image=$$(deploy/docker/jaeger-image.sh); touch deploy/.env; \
	grep -q '^JAEGER_IMAGE=' deploy/.env || echo "JAEGER_IMAGE=$$image" >>deploy/.env

.PHONY: container-test
container-test: ## Test the whole path on a broker in a container; says why where there is no Docker.
	@deploy/docker/container-test.sh

.PHONY: check
check: check-generate check-tidy vet lint vuln ## Generated code and go.mod clean, vet, lint, known vulnerabilities.

.PHONY: generate
generate: ## Generate the Go code of the .proto files.
	$(BUF) generate

.PHONY: check-generate
check-generate: ## Lint the .proto files and fail when the generated code is not what they say.
	$(BUF) lint
	@before=$$(cat proto/*/v1/*.pb.go | sha256sum); $(BUF) generate; \
	after=$$(cat proto/*/v1/*.pb.go | sha256sum); \
	[ "$$before" = "$$after" ] || { git diff --stat -- proto; echo "generated code was stale: commit what 'make generate' wrote" >&2; exit 1; }

.PHONY: tidy
tidy: ## Tidy the modules.
	@for m in $(TIDY_MODULES); do (cd "$$m" && GOWORK=off go mod tidy); done

.PHONY: check-tidy
check-tidy: ## Fail when a go.mod is not tidy or a module does not build by itself.
	@for m in $(TIDY_MODULES); do (cd "$$m" && GOWORK=off go mod tidy -diff) || { echo "run 'make tidy'" >&2; exit 1; }; done
	cd services && GOWORK=off go build ./...

.PHONY: vet
vet: ## go vet in every module.
	go vet work

.PHONY: lint
lint: ## golangci-lint in every module.
	go list -m -f '{{.Dir}}/...' | xargs $(GOLANGCI) run

.PHONY: vuln
vuln: ## Look for known vulnerabilities; skipped, and said so, where the database cannot be reached.
	@if curl -fsS -m 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then $(GOVULNCHECK) work; \
	else echo "vuln: SKIPPED, the vulnerability database vuln.go.dev cannot be reached from here"; fi

.PHONY: fmt
fmt: ## Format the Go code.
	gofmt -w $$(git ls-files '*.go')

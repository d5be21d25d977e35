#!/usr/bin/env bash
# The last lines of "make test": which broker, how many passed, how many were skipped (their reasons stand above).
set -euo pipefail
passed=$((TESTS_TOTAL - TESTS_FAILED - TESTS_SKIPPED))
echo "broker: ${ZNS_TEST_BROKER_DESCRIPTION:-each test package chose for itself} · $(go version | cut -d' ' -f3)"
if ((TESTS_ERRORS > 0)); then
  echo "$TESTS_ERRORS errors: not every package could be built, or one ended without saying how its tests went"
fi
echo "$((passed > 0 ? passed : 0)) passed, $TESTS_FAILED failed, $TESTS_SKIPPED skipped"

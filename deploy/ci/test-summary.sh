#!/usr/bin/env bash
# The end of "make test": why tests were skipped, then one line with the broker and the counts. gotestsum runs it with
# TESTS_* and with GOTESTSUM_JSONFILE, the events of the run.
set -euo pipefail

events=${GOTESTSUM_JSONFILE:-}
if [ -n "$events" ] && [ -s "$events" ] && [ "${TESTS_SKIPPED:-0}" != 0 ]; then
	echo "skipped:"
	# The last line that a test prints from its source before it is skipped is the reason.
	awk '
		function field(name,   at, rest) {
			at = index($0, "\"" name "\":\"")
			if (!at) return ""
			rest = substr($0, at + length(name) + 4)
			match(rest, /([^"\\]|\\.)*/)
			return substr(rest, 1, RLENGTH)
		}
		/"Action":"output"/ && /"Test":/ {
			out = field("Output")
			if (out ~ /^ *[A-Za-z0-9_]+\.go:[0-9]+: /) {
				sub(/^ *[A-Za-z0-9_]+\.go:[0-9]+: /, "", out)
				sub(/\\n$/, "", out)
				gsub(/\\"/, "\"", out)
				reason[field("Package") "\t" field("Test")] = out
			}
		}
		/"Action":"skip"/ && /"Test":/ {
			why = reason[field("Package") "\t" field("Test")]
			count[why == "" ? "no reason given" : why]++
		}
		END { for (why in count) printf "%5d  %s\n", count[why], why }
	' "$events" | sort -k1,1nr -k2
fi

if ((${TESTS_ERRORS:-0} > 0)); then
	echo "$TESTS_ERRORS errors: not every package could be built, or one ended without saying how its tests went"
fi
passed=$((${TESTS_TOTAL:-0} - ${TESTS_FAILED:-0} - ${TESTS_SKIPPED:-0}))
echo "broker ${ZNS_TEST_BROKER_DESCRIPTION:-chosen by each test package, see above} · $(go version | cut -d' ' -f3) · $((passed > 0 ? passed : 0)) passed · ${TESTS_FAILED:-0} failed · ${TESTS_SKIPPED:-0} skipped"

#!/usr/bin/env bash
# Formatting, lints, build, all tests. Says a line per step and ends with "N passed, N failed".
source "$(dirname "$0")/env.sh"

"$PGFT_ROOT/scripts/setup.sh"
cd "$PGFT_ROOT"
mkdir -p "$CARGO_TARGET_DIR"
passed=0 failed=0 skipped=0

# check NAME COMMAND...: a step that counts as one test.
check() { if step "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); return 1; fi; }

# Reads cargo test's output: a line per suite, failures in full, then "counts PASSED FAILED SKIPPED". A test that finds
# that it cannot run here prints "skipped: why" and counts as skipped.
summary='
    /^ +Running / { suite = $2; sub(/^tests\//, "", suite); sub(/(\/main)?\.rs$/, "", suite); showing = 0 }
    /^skipped: / { skipped++; suite_skipped++; print "    " $0 }
    /^failures:$/ { showing = 1 }
    /^test result: / {
        passed += $4 - suite_skipped; failed += $6; skipped += $8; showing = 0; suites++
        printf "%-28s %s %5d s  (%d tests)\n", "tests " suite, ($6 ? "FAILED" : "ok"), $NF + 0.5, $4 + $6; fflush()
        suite_skipped = 0
    }
    /^error/ && !suite { broken = 1 }
    showing || broken { print "    " $0; fflush() }
    END { print "counts", passed + 0, failed + (broken || !suites), skipped + 0 }'

# The panic message says it; a test that needs more is run by hand.
export RUST_BACKTRACE=0
shared=/tmp/pgft.shared.$$
cleanup() { "$PGFT_ROOT/scripts/cluster.sh" destroy "$shared"; }

run_tests() {
    local log=$PGFT_STATE/logs/tests.log counts=$PGFT_STATE/logs/tests.counts preload
    preload=$(setting test preload)
    "$PGFT_ROOT/scripts/cluster.sh" create "$shared" "shared_preload_libraries=$preload"
    trap cleanup EXIT
    "$PGFT_ROOT/scripts/cluster.sh" start "$shared"
    PGFT_SHARED_CLUSTER=$shared cargo test --release --no-fail-fast --no-default-features \
        --features "$(setting "postgres.$PGFT_MAJOR" feature)" -- --show-output 2>&1 </dev/null |
        tee "$log" | awk "$summary" | tee "$counts" | grep -v '^counts ' || true
    read -r _ p f s < <(grep '^counts ' "$counts")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

check 'rustfmt' cargo fmt --check -- --color never || true
# Its checked copy of the dependencies costs a minute once; what it finds is worth more.
check 'clippy' cargo clippy --release --all-targets --no-default-features \
    --features "$(setting "postgres.$PGFT_MAJOR" feature)" -- -D warnings || true
if "$PGFT_ROOT/scripts/build.sh"; then passed=$((passed + 1)) && run_tests; else failed=$((failed + 1)); fi

[ "$failed" = 0 ] || say "Logs: $PGFT_STATE/logs"
say "$passed passed, $failed failed$([ "$skipped" = 0 ] || printf ', %d skipped' "$skipped")"
[ "$failed" = 0 ]

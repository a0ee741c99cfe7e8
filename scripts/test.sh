#!/usr/bin/env bash
# Formatting, lints, build, all tests. Says a line per step and ends with "N passed, N failed".
source "$(dirname "$0")/env.sh"

"$PGFT_ROOT/scripts/setup.sh"
"$PGFT_ROOT/scripts/doubles.sh"
cd "$PGFT_ROOT"
mkdir -p "$CARGO_TARGET_DIR"
passed=0 failed=0 skipped=0

# check NAME COMMAND...: a step that counts as one test.
check() { if step "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); return 1; fi; }

# Reads cargo test's output: says a line per suite and the failures in full, and adds up. A test that finds that it
# cannot run here prints "skipped: why" and counts as skipped.
summarize() {
    local line suite='' from=0 running='' showing='' verdict ok bad ignored skips=0
    while IFS= read -r line; do
        case $line in
            *' Running tests/'*)
                [ -z "$running" ] || crashed "$suite"
                suite=${line#*tests/} suite=${suite%%.rs *} suite=${suite%/main} from=$SECONDS running=yes showing=''
                ;;
            'skipped: '*) skips=$((skips + 1)) && say "    $line" ;;
            failures:) showing=yes ;;
            error*) [ -n "$suite" ] || showing=yes ;;
            'test result: '*)
                read -r _ _ verdict ok _ bad _ ignored _ <<<"$line"
                say "$(printf '%-28s %s %5d s  (%d tests)' "tests $suite" "${verdict%.}" $((SECONDS - from)) $((ok + bad)))"
                passed=$((passed + ok - skips)) failed=$((failed + bad)) skipped=$((skipped + skips + ignored))
                running='' showing='' skips=0
                ;;
        esac
        [ -z "$showing" ] || say "    $line"
    done
    # No suite: it did not compile.
    [ -n "$suite" ] || failed=$((failed + 1))
    [ -z "$running" ] || crashed "$suite"
}

# A suite that ended without a result.
crashed() { say "tests $1 CRASHED" && failed=$((failed + 1)); }

# The panic message says it; a test that needs more is run by hand.
export RUST_BACKTRACE=0
shared=/tmp/pgft.shared.$$
cleanup() { "$PGFT_ROOT/scripts/cluster.sh" destroy "$shared"; }

run_tests() {
    "$PGFT_ROOT/scripts/cluster.sh" create "$shared" "shared_preload_libraries=$(setting test preload)"
    trap cleanup EXIT
    "$PGFT_ROOT/scripts/cluster.sh" start "$shared"
    summarize < <(PGFT_SHARED_CLUSTER=$shared cargo test --release --no-fail-fast --no-default-features \
        --features "$(setting "postgres.$PGFT_MAJOR" feature)" -- --show-output 2>&1 </dev/null |
        tee "$PGFT_STATE/logs/tests.log")
}

# The self-hosted trainer, by pytest, whose last line is added up.
run_trainer_tests() {
    local log=$PGFT_STATE/logs/trainer-tests.log from=$SECONDS verdict=ok ok bad skips
    "$PGFT_ROOT/scripts/trainer.sh" test >"$log" 2>&1 </dev/null || verdict=FAILED
    ok=$(of_pytest passed) bad=$(of_pytest failed) skips=$(of_pytest skipped)
    # It ended without a result, or could not be installed.
    [ "$verdict" = ok ] || [ "$bad" != 0 ] || bad=1
    say "$(printf '%-28s %s %5d s  (%d tests)' 'tests trainer (Python)' "$verdict" $((SECONDS - from)) $((ok + bad)))"
    sed -n 's/^SKIPPED/    skipped:/p' "$log"
    [ "$verdict" = ok ] || tail -n 60 "$log" | sed 's/^/    /'
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skips))
}

of_pytest() {
    local number
    number=$(tail -n 1 "$PGFT_STATE/logs/trainer-tests.log" | grep -o "[0-9]* $1" | cut -d' ' -f1)
    say "${number:-0}"
}

check 'rustfmt' cargo fmt --check -- --color never || true
# Its checked copy of the dependencies costs a minute once; what it finds is worth more.
check 'clippy' cargo clippy --release --all-targets --no-default-features \
    --features "$(setting "postgres.$PGFT_MAJOR" feature)" -- -D warnings || true
# tests/self_hosted.rs trains with it.
"$PGFT_ROOT/scripts/trainer.sh" install || true
if "$PGFT_ROOT/scripts/build.sh"; then passed=$((passed + 1)) && run_tests; else failed=$((failed + 1)); fi
run_trainer_tests

[ "$failed" = 0 ] || say "Logs: $PGFT_STATE/logs"
say "$passed passed, $failed failed$([ "$skipped" = 0 ] || printf ', %d skipped' "$skipped")"
[ "$failed" = 0 ]

#!/usr/bin/env bash
# Runs the benchmarks of this folder on a fresh cluster: both sides in one go, times and their ratio.
# run.sh [NAME...]: only those (capture, dataset, jobs, ...); without one all of them, which takes hours.
source "$(dirname "$0")/../scripts/env.sh"

bench=$PGFT_ROOT/bench
mapfile -t all < <({ ls "$bench" | sed -n 's/\.\(sql\|sh\|py\)$//p' | grep -vx run; echo jobs; } | sort)
names=("$@")
[ $# -gt 0 ] || names=("${all[@]}")
for name in "${names[@]}"; do
    [[ " ${all[*]} " == *" $name "* ]] || { say "there is no benchmark \"$name\"; there are: ${all[*]}" && exit 1; }
done
"$PGFT_ROOT/scripts/setup.sh"
"$PGFT_ROOT/scripts/build.sh"
dir=/tmp/pgft.bench.$$
trap '"$PGFT_ROOT/scripts/cluster.sh" destroy "$dir"' EXIT
# A quarter of the memory, as PostgreSQL's manual advises.
"$PGFT_ROOT/scripts/cluster.sh" create "$dir" shared_preload_libraries=pg_finetune "shared_buffers=$(awk '/^MemTotal/ { print int($2 / 4096) "MB" }' /proc/meminfo)"
"$PGFT_ROOT/scripts/cluster.sh" start "$dir"

title() { say "== $1: $2"; }

# An empty database of that name; says its address.
database() {
    "$PGFT_BIN/psql" --quiet --no-psqlrc "$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" postgres)" -c "CREATE DATABASE $1 TEMPLATE template0"
    "$PGFT_ROOT/scripts/cluster.sh" url "$dir" "$1"
}

run_sql() {
    title "$1" "$(sed -n '1s/^-- //p' "$bench/$1.sql")"
    PGOPTIONS='-c client_min_messages=warning' "$PGFT_BIN/psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 --file "$bench/$1.sql" "$(database "$1")"
}

# Some take the URL of a database, others bring a cluster of their own.
run_shell() {
    title "$1" "$(sed -n '2s/^# //p' "$bench/$1.sh")"
    if grep -q "^# .*$1.sh URL" "$bench/$1.sh"; then PGFT_BIN=$PGFT_BIN "$bench/$1.sh" "$(database "$1")"; else "$bench/$1.sh"; fi
}

# Those against programs from PyPI, which come into a folder of their own.
run_python() {
    local python=$PGFT_PYTHON/bench-metrics judges
    if [ ! -d "$python" ]; then
        mapfile -t judges < <(settings bench | sed 's/=/==/')
        step 'fetch judges' python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$python.new" "${judges[@]}"
        mv "$python.new" "$python"
    fi
    title "$1" "$(sed -n '1s/^"""//p' "$bench/$1.py")"
    PYTHONPATH=$python python3 "$bench/$1.py" "$(database "$1")"
}

run_jobs() {
    title jobs 'an idle worker, 200 open jobs at a provider, a training file of 400 MB'
    (cd "$PGFT_ROOT" && cargo test --release --quiet --no-default-features --features "$(setting "postgres.$PGFT_MAJOR" feature)" --test jobs_bench -- \
        --ignored --nocapture --test-threads 1 | grep -E '^[^ ]+.*(:|after|in) ')
}

for name in "${names[@]}"; do
    if [ "$name" = jobs ]; then run_jobs
    elif [ -f "$bench/$name.sh" ]; then run_shell "$name"
    elif [ -f "$bench/$name.sql" ]; then run_sql "$name"
    else run_python "$name"
    fi
done
say "Server: $("$PGFT_BIN/postgres" --version), fsync off; machine: $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"

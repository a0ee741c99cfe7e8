#!/usr/bin/env bash
# Runs every benchmark of this folder on a fresh cluster: both sides in one go, times and their ratio.
source "$(dirname "$0")/../scripts/env.sh"

"$PGFT_ROOT/scripts/setup.sh"
"$PGFT_ROOT/scripts/build.sh"
dir=/tmp/pgft.bench.$$
trap '"$PGFT_ROOT/scripts/cluster.sh" destroy "$dir"' EXIT
"$PGFT_ROOT/scripts/cluster.sh" create "$dir" shared_preload_libraries=pg_finetune shared_buffers=512MB
"$PGFT_ROOT/scripts/cluster.sh" start "$dir"
for file in "$PGFT_ROOT"/bench/*.sql "$PGFT_ROOT"/bench/{capture,dataset_memory,mining}.sh; do
    name=$(basename "${file%.*}")
    url=$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" "$name")
    "$PGFT_BIN/psql" --quiet --no-psqlrc "$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" postgres)" -c "CREATE DATABASE $name TEMPLATE template0"
    say "== $name: $(sed -n '/^\(--\|#\) /{ s/^[-#]* //p; q; }' "$file")"
    case $file in *.sh) PGFT_BIN=$PGFT_BIN "$file" "$url"; continue ;; esac
    PGOPTIONS='-c client_min_messages=warning' "$PGFT_BIN/psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 --file "$file" "$url"
done
say "== jobs: an idle worker, 200 open jobs at a provider, a training file of 400 MB"
(cd "$PGFT_ROOT" && cargo test --release --quiet --test jobs_bench -- --ignored --nocapture --test-threads 1 | grep -E '^[^ ]+.*(:|after|in) ')
for script in "$PGFT_ROOT"/bench/training*.sh; do
    say "== $(basename "$script" .sh): $(sed -n '2s/^# //p' "$script")"
    "$script"
done
# Those against programs from PyPI, which come into a folder of their own.
python=$PGFT_PYTHON/bench-metrics
if [ ! -d "$python" ]; then
    mapfile -t judges < <(settings bench | sed 's/=/==/')
    step 'fetch judges' python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$python.new" "${judges[@]}"
    mv "$python.new" "$python"
fi
for file in "$PGFT_ROOT"/bench/*.py; do
    name=$(basename "$file" .py)
    "$PGFT_BIN/psql" --quiet --no-psqlrc "$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" postgres)" -c "CREATE DATABASE $name TEMPLATE template0"
    say "== $name: $(sed -n '1s/^"""//p' "$file")"
    PYTHONPATH=$python python3 "$file" "$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" "$name")"
done
say "== shadow: $(sed -n '2s/^# //p' "$PGFT_ROOT/bench/shadow.sh")"
"$PGFT_ROOT/bench/shadow.sh"
say "== simulation: $(sed -n '2s/^# //p' "$PGFT_ROOT/bench/simulation.sh")"
"$PGFT_ROOT/bench/simulation.sh"
say "Server: $("$PGFT_BIN/postgres" --version), fsync off; machine: $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"

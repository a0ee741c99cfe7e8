#!/usr/bin/env bash
# Builds pg_finetune for the server of PG_CONFIG and installs it there.
PG_CONFIG=${PG_CONFIG:-$(command -v pg_config || true)}
[ -n "$PG_CONFIG" ] || { printf 'error: no pg_config in PATH\nhint: make install PG_CONFIG=/usr/lib/postgresql/18/bin/pg_config\n' >&2; exit 1; }
source "$(dirname "$0")/env.sh"

# Only the copying needs rights, so cargo-pgrx asks for them: what is built stays yours.
for folder in "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)/extension"; do
    [ -w "$folder" ] || PGFT_SUDO=--sudo
done
[ -z "${PGFT_SUDO:-}" ] || command -v sudo >/dev/null ||
    die "the folders of $PG_CONFIG are not writable for $(id -un), and there is no sudo" 'run it as a user who may write there'
export PGFT_SUDO
[ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ] ||
    die "the headers of PostgreSQL $PGFT_MAJOR are missing" "Debian: apt-get install postgresql-server-dev-$PGFT_MAJOR"
"$PGFT_ROOT/scripts/setup.sh"
"$PGFT_ROOT/scripts/build.sh"

[ -e "$("$PG_CONFIG" --sharedir)/extension/vector.control" ] ||
    say "pgvector is not installed there and is needed (Debian: apt-get install postgresql-$PGFT_MAJOR-pgvector)"
say 'Now, in a database: CREATE EXTENSION pg_finetune CASCADE;'
say "To have the worker back after a restart of the server: shared_preload_libraries = 'pg_finetune'"

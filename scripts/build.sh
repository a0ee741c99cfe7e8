#!/usr/bin/env bash
# Builds the extension and installs it into the server of PG_CONFIG. Quick when nothing has changed.
source "$(dirname "$0")/env.sh"

cd "$PGFT_ROOT"
feature=$(setting "postgres.$PGFT_MAJOR" feature)
step 'build extension' cargo pgrx install --release ${PGFT_SUDO:-} --pg-config "$PG_CONFIG" \
    --no-default-features --features "$feature"

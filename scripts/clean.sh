#!/usr/bin/env bash
# Removes what make has built and fetched, and the demo's server.
source "$(dirname "$0")/env.sh"

"$PGFT_ROOT/scripts/demo.sh" stop
rm -rf "$PGFT_STATE" "$PGFT_SERVER" "$CARGO_TARGET_DIR"

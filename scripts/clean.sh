#!/usr/bin/env bash
# Removes what make has built and fetched, and the demo's server. Folders that PG_FINETUNE_CACHE and CARGO_TARGET_DIR
# name may hold more than ours: the first loses ours only, the second stays.
source "$(dirname "$0")/env.sh"

"$PGFT_ROOT/scripts/demo.sh" stop
for folder in "$PGFT_STATE" "$PGFT_SERVER"; do
    [ ! -d "$folder" ] || (cd "$folder" && rm -rf logs tools python pgrx models npm embeddings trainer-* template-* .template.lock)
    rmdir "$folder" 2>/dev/null || true
done
rm -rf "$PGFT_ROOT/target"

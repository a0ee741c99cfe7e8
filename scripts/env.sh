# Sourced by the other scripts: where everything is, and the environment that cargo needs. Installs nothing.
# shellcheck shell=bash

set -euo pipefail
umask 022

PGFT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# setting SECTION KEY: one value of pgrx.toml, without quotes.
setting() {
    awk -v section="[$1]" -v key="$2" '
        /^\[/ { here = ($0 == section) }
        here && $1 == key && $2 == "=" { sub(/^[^=]*= */, ""); gsub(/^"|"$/, ""); print; exit }
    ' "$PGFT_ROOT/pgrx.toml"
}

# settings SECTION: all of its lines as name=value.
settings() {
    awk -v section="[$1]" '
        /^\[/ { here = ($0 == section); next }
        here && /^[a-z]/ { name = $1; sub(/^[^=]*= */, ""); gsub(/^"|"$/, ""); print name "=" $0 }
    ' "$PGFT_ROOT/pgrx.toml"
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2; exit 1; }

# Postgres refuses to run as root: root lends it a user without rights.
PGFT_USER=pgfinetune
as_server() {
    if [ "$(id -u)" = 0 ]; then (cd / && runuser -u "$PGFT_USER" -- "$@"); else "$@"; fi
}
own_by_server() { [ "$(id -u)" != 0 ] || chown -R "$PGFT_USER" "$@"; }

# Everything that is fetched or built, but for cargo's target folder.
PGFT_STATE=${PG_FINETUNE_CACHE:-$PGFT_ROOT/.pgft}
mkdir -p "$PGFT_STATE/logs"
PGFT_STATE=$(cd "$PGFT_STATE" && pwd)

# The server and its data need a path that its user may enter; a clone in root's home is none.
PGFT_SERVER=$PGFT_STATE
if [ "$(id -u)" = 0 ]; then
    id "$PGFT_USER" >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin "$PGFT_USER"
    as_server test -x "$PGFT_STATE" || PGFT_SERVER=/var/cache/pg_finetune/$(printf %s "$PGFT_STATE" | cksum | cut -d' ' -f1)
fi
mkdir -p "$PGFT_SERVER"

# package_path SECTION KEY: where a path inside the PyPI package of that section is.
PGFT_PYTHON=$PGFT_SERVER/python
package_path() { printf '%s/%s-%s/%s' "$PGFT_PYTHON" "$(setting "$1" package)" "$(setting "$1" version)" "$(setting "$1" "$2")"; }

PGFT_MAJOR=$(setting postgres majors | tr -d '[] ' | cut -d, -f1)
PG_CONFIG=${PG_CONFIG:-$(package_path "postgres.$PGFT_MAJOR" pg_config)}
if [ -x "$PG_CONFIG" ]; then
    PGFT_MAJOR=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    [ -n "$(setting "postgres.$PGFT_MAJOR" feature)" ] ||
        die "PostgreSQL $PGFT_MAJOR at $PG_CONFIG is not supported" "pgrx.toml lists what is: $(setting postgres majors)"
fi
PGFT_BIN=$(dirname "$PG_CONFIG")
export PG_CONFIG PGFT_ROOT PGFT_STATE PGFT_SERVER

# One profile, one target folder and the same flags for extension, tests and demo, so that nothing is compiled twice.
# RUSTFLAGS from outside would replace flags that pgrx needs; build.rs sets the linker flag that cargo-pgrx would add.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1
export CARGO_TERM_COLOR=never
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PGFT_ROOT/target}
export PGRX_HOME=$PGFT_STATE/pgrx
export PGRX_PG_CONFIG_PATH=$PG_CONFIG
export PATH=$PGFT_STATE/tools/bin:$PATH
# libclang from PyPI comes without the headers that belong to a compiler: gcc's are taken.
if [ -z "${LIBCLANG_PATH:-}" ]; then
    LIBCLANG_PATH=$(package_path libclang path)
    BINDGEN_EXTRA_CLANG_ARGS="-isystem $(gcc -print-file-name=include) ${BINDGEN_EXTRA_CLANG_ARGS:-}"
    export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS
fi

# The sentence model that scripts/model.sh fetches.
MODEL=$PGFT_STATE/models/$(setting demo model)-$(setting demo model_version)
# The Python environment of the self-hosted trainer, which scripts/trainer.sh installs: another one per list of packages.
TRAINER_VENV=$PGFT_STATE/trainer-$(cat "$PGFT_ROOT"/trainer/requirements*.txt | cksum | cut -d' ' -f1)

# step NAME COMMAND...: runs it with its output in logs/NAME.log; prints one line, and the end of the log on failure.
step() {
    local name=$1 log=$PGFT_STATE/logs/${1// /-}.log from=$SECONDS
    shift
    if "$@" >"$log" 2>&1; then
        say "$(printf '%-28s ok %5d s' "$name" $((SECONDS - from)))"
    else
        say "$(printf '%-28s FAILED %d s' "$name" $((SECONDS - from)))"
        tail -n 40 "$log" | sed 's/^/    /'
        say "    (all of it: $log)"
        return 1
    fi
}

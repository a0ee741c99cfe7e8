#!/usr/bin/env bash
# Prints the Python of an environment with the programs that receive our exports; installs them at the first call.
source "$(dirname "$0")/env.sh"

list=$PGFT_ROOT/tests/judges/requirements.txt
venv=$PGFT_STATE/judges-$(cksum <"$list" | cut -d' ' -f1)
(
    flock 9
    if [ ! -d "$venv" ]; then
        rm -rf "$venv.new" && python3 -m venv "$venv.new"
        "$venv.new/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list" >&2
        mv "$venv.new" "$venv"
    fi
) 9>"$PGFT_STATE/judges.lock"
printf '%s\n' "$venv/bin/python"

#!/usr/bin/env bash
# The self-hosted trainer in a Python environment of its own.   trainer.sh install | serve [OPTIONS of the trainer] | test [OPTIONS of pytest] | run PROGRAM
source "$(dirname "$0")/env.sh"

PACKAGE=$PGFT_ROOT/trainer

environment() {
    rm -rf "$TRAINER_VENV" "$TRAINER_VENV.new"
    python3 -m venv "$TRAINER_VENV.new"
    "$TRAINER_VENV.new/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r "$PACKAGE/requirements.txt" -r "$PACKAGE/requirements-test.txt"
    mv "$TRAINER_VENV.new" "$TRAINER_VENV"
}

packages() {
    python3 -c 'import venv, ensurepip' 2>/dev/null || die 'python3 has no venv' 'install it (Debian: apt-get install python3-venv)'
    [ -d "$TRAINER_VENV" ] || step 'install trainer (6 GB)' environment
}

prepare() {
    packages
    "$PGFT_ROOT/scripts/model.sh"
}

# Any program that needs the same packages.
run() {
    packages
    exec "$TRAINER_VENV/bin/python" "$@"
}

serve() {
    prepare
    cat <<EOF
In the database, as a superuser:
  CREATE SERVER trainer FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url 'http://127.0.0.1:8484/v1');
  CREATE USER MAPPING FOR CURRENT_USER SERVER trainer OPTIONS (api_key_file '$PGFT_STATE/trainer-data/api_key');
  CALL check_provider('trainer');
EOF
    PYTHONPATH=$PACKAGE exec "$TRAINER_VENV/bin/python" -m pg_finetune_trainer serve --data "$PGFT_STATE/trainer-data" --base "all-MiniLM-L6-v2=$MODEL" "$@"
}

test() {
    prepare
    cd "$PACKAGE"
    PGFT_PRISM=$PGFT_STATE/doubles/prism/node_modules/.bin/prism PGFT_TEST_MODEL=$MODEL PYTHONDONTWRITEBYTECODE=1 exec "$TRAINER_VENV/bin/python" -m pytest -p no:cacheprovider --quiet -rs --color=no "$@" tests
}

case ${1:-} in
    install) prepare ;;
    serve | test | run) "$@" ;;
    *) sed -n 's/^# //; 2p' "$0"; exit 2 ;;
esac

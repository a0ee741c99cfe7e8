#!/usr/bin/env bash
# Private Postgres clusters: local socket only, superuser "postgres" without password, in one folder each.
#   cluster.sh create DIR [name=value ...]   new data in DIR/data with pgrx.toml's test settings and these
#   cluster.sh start DIR [PID]               start; with a PID: stop and remove it all when that process is gone
#   cluster.sh stop DIR [smart|fast|immediate]
#   cluster.sh destroy DIR                   stop and remove
#   cluster.sh standby DIR NEW               a standby of the running cluster in DIR, not started yet
#   cluster.sh url DIR DATABASE              connection string for psql and for clients
#   cluster.sh bin                           folder of the server's programs
source "$(dirname "$0")/env.sh"

# initdb takes seconds, a copy of its result a tenth of one.
template() {
    local template=$PGFT_SERVER/template-$PGFT_MAJOR-$(printf %s "$PG_CONFIG" | cksum | cut -d' ' -f1)
    (
        flock 9
        if [ ! -d "$template" ]; then
            rm -rf "$template.new" && mkdir -p "$template.new" && own_by_server "$template.new"
            as_server "$PGFT_BIN/initdb" --pgdata "$template.new/data" --username postgres --auth trust \
                --encoding UTF8 --locale C --no-sync >"$PGFT_STATE/logs/initdb.log" 2>&1 9>&- ||
                die 'initdb failed' "see $PGFT_STATE/logs/initdb.log"
            mv "$template.new" "$template"
        fi
    ) 9>"$PGFT_SERVER/.template.lock"
    printf '%s' "$template"
}

# A socket's path may have 107 characters.
socket_folder() {
    if [ ${#1} -le 80 ]; then printf '%s' "$1"; else printf '/tmp/pg_finetune.%s' "$(printf %s "$1" | cksum | cut -d' ' -f1)"; fi
}

write_settings() {
    local pair
    for pair in "unix_socket_directories=$(socket_folder "$1")" "listen_addresses=" "port=$(setting test port)" "${@:2}"; do
        printf "%s = '%s'\n" "${pair%%=*}" "$(printf %s "${pair#*=}" | sed "s/'/''/g")"
    done
}

create() {
    local dir=$1 template
    template=$(template)
    mkdir -p "$dir" "$(socket_folder "$dir")"
    chmod 755 "$dir"
    cp -R "$template/data" "$dir/data"
    mapfile -t defaults < <(settings test.settings)
    write_settings "$dir" "${defaults[@]}" "${@:2}" >>"$dir/data/postgresql.conf"
    own_by_server "$dir" "$(socket_folder "$dir")"
    chmod 700 "$dir/data"
}

start() {
    as_server env -u RUST_BACKTRACE "$PGFT_BIN/pg_ctl" --pgdata "$1/data" --log "$1/log" --wait --timeout 60 --silent start >/dev/null 2>&1 ||
        { tail -n 20 "$1/log" >&2; die "the server in $1 did not start"; }
    [ -z "${2:-}" ] || { (while kill -0 "$2" 2>/dev/null; do sleep 1; done; destroy "$1") </dev/null >/dev/null 2>&1 & }
}

stop() {
    # A pid file alone proves nothing: the machine may have gone down.
    if as_server "$PGFT_BIN/pg_ctl" --pgdata "$1/data" status >/dev/null 2>&1; then
        as_server "$PGFT_BIN/pg_ctl" --pgdata "$1/data" --wait --timeout 60 --silent --mode "${2:-fast}" stop
    fi
}

standby() {
    local dir=$2 socket port
    [ -x "$PGFT_BIN/pg_basebackup" ] || die 'this server has no pg_basebackup' 'install the client programs of PostgreSQL'
    socket=$(socket_folder "$1")
    port=$(awk -F"'" '/^port = / { port = $2 } END { print port }' "$1/data/postgresql.conf")
    mkdir -p "$dir" "$(socket_folder "$dir")"
    chmod 755 "$dir"
    own_by_server "$dir" "$(socket_folder "$dir")"
    as_server "$PGFT_BIN/pg_basebackup" --pgdata "$dir/data" --host "$socket" --port "$port" --username postgres \
        --write-recovery-conf --checkpoint fast --no-sync --wal-method stream
    printf "unix_socket_directories = '%s'\n" "$(socket_folder "$dir")" | as_server tee -a "$dir/data/postgresql.conf" >/dev/null
}

destroy() {
    [ -d "$1/data" ] || return 0
    stop "$1" immediate || true
    rm -rf "$1" "$(socket_folder "$1")"
}

url() {
    local port
    port=$(awk -F"'" '/^port = / { port = $2 } END { print port }' "$1/data/postgresql.conf")
    printf 'postgresql:///%s?host=%s&port=%s&user=postgres\n' "$2" "$(socket_folder "$1")" "$port"
}

bin() { say "$PGFT_BIN"; }

case ${1:-} in
    create | start | stop | standby | destroy | url | bin) "$@" ;;
    *) sed -n 's/^# \{0,1\}//; 2,9p' "$0"; exit 2 ;;
esac

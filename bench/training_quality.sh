#!/usr/bin/env bash
# What the product makes of real feedback: dataset, fine_tune and gate in Postgres, then everybody's later actions.
#   bench/training_quality.sh [SEEDS] [SHUFFLES] [SETS]      SETS: 'polis stars'; needs the data sets (PG_FINETUNE_SHARED or ../shared), nothing else
# Profiles and models know part "train" alone; judged are the actions of part "test". Save rate: of the ten shown first.
# False suggestions: share of the unsaved shown before half of the saved are found. Brackets: 95 % bootstrap over users.
source "$(dirname "$0")/../scripts/env.sh"
seeds=${1:-3} shuffles=${2:-20} sets=${3:-polis stars}
feedback=${PG_FINETUNE_SHARED:-$PGFT_ROOT/../shared}/data/feedback
[ -d "$feedback" ] || { say "skipped: no data sets at $feedback"; exit 0; }

dir=/tmp/pgft.quality.$$
trap '"$PGFT_ROOT/scripts/cluster.sh" destroy "$dir"; rm -rf "$dir.csv"' EXIT
mkdir -p "$dir.csv"
"$PGFT_ROOT/scripts/cluster.sh" create "$dir" shared_preload_libraries=pg_finetune
"$PGFT_ROOT/scripts/cluster.sh" start "$dir"
sql() { # DATABASE [psql arguments]
    local url
    url=$("$PGFT_ROOT/scripts/cluster.sh" url "$dir" "$1")
    PGOPTIONS='-c client_min_messages=warning' "$PGFT_BIN/psql" --quiet --no-psqlrc --set ON_ERROR_STOP=1 "$url" "${@:2}"
}

# csv SET: vectors from half precision to text, actions with a time each. A sampled skip has none: it gets that of one of the
# user's saves of the same part, drawn by a fixed seed; a save of before the lists' history stands at its beginning.
csv() {
    python3 - "$feedback/$1" "$dir.csv/$1" <<'PY'
import csv, gzip, random, struct, sys
source, target = sys.argv[1:]
data = open(source + "/embeddings.f16.npy", "rb").read()
data = data[10 + struct.unpack("<H", data[8:10])[0]:]
with open(target + ".items", "w") as out:
    for i in range(len(data) // 768):
        out.write("%d\t[%s]\n" % (i, ",".join("%.6g" % v for v in struct.unpack_from("<384e", data, i * 768))))
rows = list(csv.DictReader(gzip.open(source + "/actions.csv.gz", "rt")))
def time(row):
    seen = row["first_seen"]
    return "2000-01-01" if not seen else seen if "-" in seen else "@" + str(int(seen) / 1000)
saves = {}
for row in rows:
    if row["action"] == "saved":
        saves.setdefault((row["user_id"], row["part"]), []).append(time(row))
draw = random.Random(1)
with open(target + ".actions", "w") as out:
    for row in rows:
        at = draw.choice(saves[row["user_id"], row["part"]]) if row["source"] == "sampled" else time(row)
        out.write("\t".join([row["user_id"], row["item_id"], row["action"], at, row["part"]]) + "\n")
PY
}

for set in $sets; do
    csv "$set"
    sql postgres -c "CREATE DATABASE $set TEMPLATE template0"
    sql "$set" -f "$PGFT_ROOT/bench/training_quality.inc"
    sed 's/@\([0-9.]*\)/\1/' "$dir.csv/$set.actions" >"$dir.csv/$set.plain"
    sql "$set" -c "\\copy item FROM '$dir.csv/$set.items'" -c "\\copy action_text FROM '$dir.csv/$set.plain'" -c "CALL fill()"
    for seed in $(seq 1 "$seeds"); do
        sql "$set" -c "CALL one_run('$set', $seed)"
    done
    sql "$set" -c "CALL measure_recall('plain profiles', 'base')" -c "DO \$\$ DECLARE learned record; BEGIN SELECT q.model, a.model_id INTO learned FROM quality q, adapter a WHERE q.seed = 1 AND a.report #>> '{parameters,seed}' = '1'; CALL measure_recall('learned: ' || learned.model, learned.model_id); END \$\$"
    say "== $set: share of the ten nearest that the index finds"
    sql "$set" -c "SELECT * FROM recall_at_10 ORDER BY queries DESC, ef_search"
    say "== $set: the second stage, on users it was chosen on and on judges"
    sql "$set" -c "SELECT report #>> '{parameters,seed}' AS seed, knn3_weight, popularity_weight, report -> 'second_stage' AS second_stage FROM adapter ORDER BY 1"
    say "== $set: later actions of everybody, $seeds seeds"
    sql "$set" -c "SELECT * FROM quality ORDER BY seed" -c "SELECT * FROM what_stands_beside ORDER BY seed" -c "SELECT * FROM not_beaten ORDER BY seed"
    [ "$set" = stars ] || for seed in $(seq 1 "$seeds"); do
        for actions in 100 300 1000 3000 10000; do
            sql "$set" -c "CALL little('$set', $actions, $seed)"
        done
    done
    [ "$set" = polis ] || sql "$set" -c "CALL few('$set', 12, 1)"
    say "== $set: with so many actions to train on; below zero: a database of so many users"
    sql "$set" -c "SELECT * FROM curve ORDER BY actions, seed"
done
case $sets in *polis*) ;; *) exit 0 ;; esac
sql polis -c "CALL shuffled($shuffles)"
say "== polis, labels shuffled: refused on how many of $shuffles seeds"
sql polis -c "SELECT count(*) FILTER (WHERE verdict <> 'passed') AS refused, count(*) AS of FROM model_evaluation WHERE model_id LIKE 'shuffled%'"

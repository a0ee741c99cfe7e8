"""model_metrics and roc_auc against SQL written by hand, scikit-learn (with fetching the rows) and MADlib's method in SQL.

Called by run.sh with a connection string; argument 2 is the largest number of rows. With a third argument it takes one step only, on
the rows that are there: "fill", or "metrics" or "auc" with the number of parallel workers.
"""
import sys
import time

import numpy
import psycopg
from sklearn.metrics import roc_auc_score

# 100,000 users at 10 million rows, four weeks, about a twelfth still pending.
ROWS = """
INSERT INTO model_performance_log (user_id, signal_id, model_variant, user_action, relevance_score, shown_at, actioned_at)
SELECT 'user-' || u, i::text, CASE WHEN hashint4(u) % 2 = 0 THEN 'base' ELSE 'fineTuned' END, a.action, s.score, t.shown,
       CASE WHEN a.action IS NOT NULL THEN t.shown + interval '1 minute' * (5 + 300 * random()) END
FROM generate_series({first_user}, {last_user}) u, generate_series(1, 100) i,
     LATERAL (SELECT random() WHERE u + i > 0) s (score),
     LATERAL (SELECT timestamptz '2026-09-01Z' + interval '28 days' * random() WHERE u + i > 0) t (shown),
     LATERAL (SELECT CASE WHEN i % 12 = 0 THEN NULL WHEN random() < 0.1 + 0.5 * s.score THEN 'saved'
                          WHEN random() < 0.1 THEN 'snipped' ELSE 'skipped' END WHERE u + i > 0) a (action)
"""

COUNTS = """
SELECT model_variant, count(*), count(user_action), count(*) FILTER (WHERE user_action = 'saved'),
       count(*) FILTER (WHERE user_action = 'skipped'), count(*) FILTER (WHERE user_action = 'snipped'),
       count(*) FILTER (WHERE relevance_score >= 0.5), count(user_action) FILTER (WHERE relevance_score >= 0.5),
       count(*) FILTER (WHERE relevance_score >= 0.5 AND user_action = 'skipped'),
       count(*) FILTER (WHERE relevance_score >= 0.5 AND user_action IN ('saved', 'snipped')),
       count(*) FILTER (WHERE relevance_score < 0.5 AND user_action IN ('saved', 'snipped')),
       count(*) FILTER (WHERE relevance_score < 0.2), count(*) FILTER (WHERE relevance_score >= 0.2 AND relevance_score < 0.4),
       count(*) FILTER (WHERE relevance_score >= 0.4 AND relevance_score < 0.6),
       count(*) FILTER (WHERE relevance_score >= 0.6 AND relevance_score < 0.8), count(*) FILTER (WHERE relevance_score >= 0.8),
       count(*) FILTER (WHERE relevance_score IS NULL), avg(relevance_score)
FROM model_performance_log GROUP BY model_variant
"""

ENGAGEMENT = """
SELECT model_variant, count(DISTINCT user_id), count(DISTINCT (user_id, (actioned_at AT TIME ZONE 'UTC')::date)) FILTER (WHERE user_action IS NOT NULL)
FROM model_performance_log GROUP BY model_variant
"""

# Kaplan-Meier with window functions.
WAITS = """
SELECT model_variant, min(seconds) FILTER (WHERE pending <= 0.5) FROM (
    SELECT model_variant, seconds, exp(sum(CASE WHEN ended < at_risk THEN ln((at_risk - ended)::float8 / at_risk) ELSE '-infinity' END)
                                       OVER (PARTITION BY model_variant ORDER BY seconds)) AS pending
    FROM (SELECT model_variant, seconds, ended, (sum(items) OVER (PARTITION BY model_variant ORDER BY seconds DESC))::float8 AS at_risk
          FROM (SELECT model_variant, date_part('epoch', coalesce(actioned_at, now()) - shown_at) AS seconds,
                       count(user_action) AS ended, count(*) AS items FROM model_performance_log GROUP BY 1, 2) w) r) s
GROUP BY model_variant
"""

LABELS = "SELECT user_action <> 'skipped' AS y, relevance_score AS s FROM model_performance_log WHERE user_action IS NOT NULL"

# What apache/madlib's area_under_roc does: one group per score, running sums, trapezoids.
MADLIB = f"""
SELECT sum((fpr - coalesce(before_fpr, 0)) * (tpr + coalesce(before_tpr, 0)) / 2) FROM (
    SELECT tpr, fpr, lag(tpr) OVER (ORDER BY s DESC) AS before_tpr, lag(fpr) OVER (ORDER BY s DESC) AS before_fpr FROM (
        SELECT s, sum(t) OVER (ORDER BY s DESC) / sum(t) OVER () AS tpr, sum(f) OVER (ORDER BY s DESC) / sum(f) OVER () AS fpr FROM (
            SELECT s, sum(y::integer)::float8 AS t, sum((NOT y)::integer)::float8 AS f FROM ({LABELS}) l GROUP BY s) g) r) c
"""

BINARY_ROW = numpy.dtype([("fields", ">i2"), ("y_size", ">i4"), ("y", "u1"), ("s_size", ">i4"), ("s", ">f8")])


def timed(work):
    """Seconds of the better of two runs (one is enough of what takes long), and the result."""
    best = None
    for _ in range(2):
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        best = seconds if best is None else min(best, seconds)
        if seconds > 15:
            break
    return best, result


def fill(connection, rows):
    """Log rows of users who are not there yet."""
    there = connection.execute("SELECT count(DISTINCT user_id) FROM model_performance_log").fetchone()[0]
    for first in range(there + 1, rows // 100 + 1, 10_000):
        connection.execute(ROWS.format(first_user=first, last_user=min(first + 9_999, rows // 100)))
    connection.execute("VACUUM (ANALYZE) model_performance_log")


def metrics(connection, workers):
    run = lambda sql: connection.execute(sql).fetchall()
    connection.execute(f"SET max_parallel_workers_per_gather = {workers}")
    whole, ours = timed(lambda: run("SELECT shown, very_low FROM model_metrics()"))
    counts, theirs = timed(lambda: run(COUNTS))
    assert sorted(row[0] for row in ours) == sorted(row[1] for row in theirs)
    rows = sum(row[0] for row in ours)
    rest = timed(lambda: run(ENGAGEMENT))[0] + timed(lambda: run(WAITS))[0]
    print(f"{rows:>10,} rows, {workers} workers: model_metrics {whole:.2f} s; by hand, all of its numbers {counts + rest:.2f} s (ratio "
          f"{whole / (counts + rest):.2f}), its FILTER counts alone {counts:.2f} s (ratio {whole / counts:.2f})", flush=True)


def auc(connection, workers):
    run = lambda sql: connection.execute(sql).fetchall()

    def fetched():
        with connection.cursor() as cursor, cursor.copy(f"COPY ({LABELS}) TO STDOUT (FORMAT binary)") as copy:
            rows = numpy.frombuffer(b"".join(copy)[19:-2], BINARY_ROW)  # the fastest way: no Python object per row
        return roc_auc_score(rows["y"], rows["s"].astype(float)), len(rows)

    connection.execute(f"SET max_parallel_workers_per_gather = {workers}")
    exact, ours = timed(lambda: run(f"SELECT roc_auc(y, s) FROM ({LABELS}) l")[0][0])
    near = timed(lambda: run(f"SELECT approx_roc_auc(y, s) FROM ({LABELS}) l"))[0]
    madlib, theirs = timed(lambda: run(MADLIB)[0][0])
    sklearn, (judge, labels) = timed(fetched)
    assert abs(ours - judge) < 1e-12 and abs(theirs - judge) < 1e-9, (ours, theirs, judge)
    print(f"{labels:>10,} labels, {workers} workers: roc_auc {exact:.2f} s, approx_roc_auc {near:.2f} s; scikit-learn with fetching {sklearn:.2f} s "
          f"({sklearn / exact:.1f} times), MADlib's SQL {madlib:.2f} s ({madlib / exact:.1f} times)", flush=True)


def main():
    connection = psycopg.connect(sys.argv[1], autocommit=True)
    largest = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
    connection.execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_finetune CASCADE; SET work_mem = '64MB'")
    if len(sys.argv) > 3:
        {"fill": fill, "metrics": metrics, "auc": auc}[sys.argv[3]](connection, int(sys.argv[4]) if len(sys.argv) > 4 else largest)
        return
    for rows in [n for n in (1_000_000, 10_000_000) if n <= largest]:
        fill(connection, rows)
        for workers in (0, 2):
            metrics(connection, workers)
            auc(connection, workers)


main()

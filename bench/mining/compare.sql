CREATE TABLE library (anchor text, positive text, negative text);
\set file :out '/library.csv'
COPY library FROM :'file' WITH (FORMAT csv);
\set file :out '/seconds.csv'
COPY took FROM :'file' WITH (FORMAT csv);
-- false: the negative's topic is one that the anchor's user likes
WITH all_of AS (
    SELECT 'ours' AS side, anchor, positive, negative FROM ours UNION ALL SELECT 'library', anchor, positive, negative FROM library
), judged AS (
    SELECT a.side, a.anchor, EXISTS (SELECT FROM likes l WHERE l.user_id = e.user_id AND l.topic = a.negative::int % 16667) AS wrong,
           EXISTS (SELECT FROM dataset_example s WHERE s.user_id = e.user_id AND s.id = a.negative) AS saved,
           1 - (e.embedding <=> n.v) AS similarity
    FROM all_of a JOIN dataset_example e ON e.id = a.anchor JOIN passage n ON n.passage = a.negative::int
)
SELECT t.side, round(t.on_cpu::numeric, 1) AS "s on a processor", round(t.seconds::numeric, 1) AS seconds, count(DISTINCT j.anchor) AS anchors, count(*) AS negatives,
       round(100 * avg(j.wrong::int), 2) AS "% to the user's liking", round(100 * avg(j.saved::int), 2) AS "% saved by the user",
       round(avg(j.similarity)::numeric, 3) AS mean_similarity, round((t.on_cpu / (SELECT on_cpu FROM took WHERE side = 'library'))::numeric, 2) AS ratio
FROM judged j JOIN took t USING (side) GROUP BY t.side, t.seconds, t.on_cpu ORDER BY t.side DESC;
SELECT round(100.0 * count(*) / (SELECT count(*) FROM ours), 1) AS "% of our triplets that are the library's, too"
FROM (SELECT anchor, positive, negative FROM ours INTERSECT SELECT anchor, positive, negative FROM library) s;

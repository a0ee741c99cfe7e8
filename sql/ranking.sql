-- Measures of one ranked list. Arrays run in parallel: relevance (above 0 = relevant; NULL = not judged, counts as not relevant)
-- and score (NULL, NaN or infinite = judged but not returned). Take the mean over users, not over lists. As in trec_eval a list
-- without a relevant item scores 0; ranking_metrics says how many users that were.

CREATE FUNCTION ndcg(relevance double precision[], score double precision[], k integer DEFAULT NULL, gain text DEFAULT 'linear', ties text DEFAULT 'averaged', ids text[] DEFAULT NULL) RETURNS double precision
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'ndcg_wrapper';
COMMENT ON FUNCTION ndcg IS 'Discounted gain of the first k as a share of the best order of all judged items; gain: linear or exponential (2^relevance - 1). ties: averaged over all orders of equal scores, or id = by id descending, as trec_eval';
GRANT EXECUTE ON FUNCTION ndcg TO finetune_analyst;

CREATE FUNCTION mrr(relevance double precision[], score double precision[], ties text DEFAULT 'averaged', ids text[] DEFAULT NULL) RETURNS double precision
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mrr_wrapper';
COMMENT ON FUNCTION mrr IS '1 / rank of the first relevant item; its mean over users is the mean reciprocal rank. ties: averaged over all orders of equal scores, or id = by id descending, as trec_eval';
GRANT EXECUTE ON FUNCTION mrr TO finetune_analyst;

CREATE FUNCTION recall_at(relevance double precision[], score double precision[], k integer DEFAULT NULL, ties text DEFAULT 'averaged', ids text[] DEFAULT NULL) RETURNS double precision
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'recall_at_wrapper';
COMMENT ON FUNCTION recall_at IS 'Share of all relevant items that is among the first k. ties: averaged over all orders of equal scores, or id = by id descending, as trec_eval';
GRANT EXECUTE ON FUNCTION recall_at TO finetune_analyst;

CREATE FUNCTION precision_at(relevance double precision[], score double precision[], k integer DEFAULT NULL, ties text DEFAULT 'averaged', ids text[] DEFAULT NULL) RETURNS double precision
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'precision_at_wrapper';
COMMENT ON FUNCTION precision_at IS 'Share of k that is relevant, also when fewer than k were returned. ties: averaged over all orders of equal scores, or id = by id descending, as trec_eval';
GRANT EXECUTE ON FUNCTION precision_at TO finetune_analyst;

CREATE FUNCTION hit_at(relevance double precision[], score double precision[], k integer DEFAULT NULL, ties text DEFAULT 'averaged', ids text[] DEFAULT NULL) RETURNS double precision
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'hit_at_wrapper';
COMMENT ON FUNCTION hit_at IS '1 when a relevant item is among the first k, else 0; with ties the chance of it. ties: averaged over all orders of equal scores, or id = by id descending, as trec_eval';
GRANT EXECUTE ON FUNCTION hit_at TO finetune_analyst;

CREATE FUNCTION average_precision_at(relevance double precision[], score double precision[], k integer DEFAULT NULL, ties text DEFAULT 'averaged', ids text[] DEFAULT NULL) RETURNS double precision
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'average_precision_at_wrapper';
COMMENT ON FUNCTION average_precision_at IS 'Precision at each relevant item among the first k, averaged over all relevant items; its mean over users is MAP. ties: averaged over all orders of equal scores, or id = by id descending, as trec_eval';
GRANT EXECUTE ON FUNCTION average_precision_at TO finetune_analyst;

-- Waiting times: rows of _scores with the seconds as score; positive = ended, negative = still waiting.

CREATE FUNCTION _survival_median(state bytea) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'survival_median_wrapper';
COMMENT ON FUNCTION _survival_median IS 'pg_finetune private: Kaplan-Meier time by which half have ended';
GRANT EXECUTE ON FUNCTION _survival_median TO finetune_analyst;

CREATE FUNCTION _survival_mean(state bytea, horizon double precision) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'survival_mean_wrapper';
COMMENT ON FUNCTION _survival_mean IS 'pg_finetune private: Kaplan-Meier mean time up to the horizon';
GRANT EXECUTE ON FUNCTION _survival_mean TO finetune_analyst;

CREATE FUNCTION _survival_intervals(users integer[], seconds double precision[], ended boolean[], horizon double precision,
    resamples integer, seed bigint) RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'survival_intervals_wrapper';
COMMENT ON FUNCTION _survival_intervals IS 'pg_finetune private: {low, high} of median and mean from resampled users';
GRANT EXECUTE ON FUNCTION _survival_intervals TO finetune_analyst;

-- Aggregates with a state of fixed size: counts in 8,192 buckets for logs too large to sort, and sums for the calibration of
-- probabilities. Scores and probabilities outside 0 to 1 are an error; NaN is left out and counted.

CREATE FUNCTION _histogram_step(state bytea, actual boolean, score double precision) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'histogram_step_wrapper';
COMMENT ON FUNCTION _histogram_step IS 'pg_finetune private: counts one row';
GRANT EXECUTE ON FUNCTION _histogram_step TO finetune_analyst;

CREATE FUNCTION _histogram_combine(state bytea, other bytea) RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'histogram_combine_wrapper';
COMMENT ON FUNCTION _histogram_combine IS 'pg_finetune private: adds the counts of two groups of rows';
GRANT EXECUTE ON FUNCTION _histogram_combine TO finetune_analyst;

CREATE FUNCTION _histogram_figures(state bytea) RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'histogram_figures_wrapper';
COMMENT ON FUNCTION _histogram_figures IS 'pg_finetune private: {auc, its error, average precision, its error, positives, negatives, ignored}';
GRANT EXECUTE ON FUNCTION _histogram_figures TO finetune_analyst;

CREATE FUNCTION _histogram_auc(state bytea) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (@extschema@._histogram_figures(state))[1]; END $$;
COMMENT ON FUNCTION _histogram_auc IS 'pg_finetune private: area under the ROC curve';
GRANT EXECUTE ON FUNCTION _histogram_auc TO finetune_analyst;

CREATE FUNCTION _histogram_average_precision(state bytea) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (@extschema@._histogram_figures(state))[3]; END $$;
COMMENT ON FUNCTION _histogram_average_precision IS 'pg_finetune private: average precision';
GRANT EXECUTE ON FUNCTION _histogram_average_precision TO finetune_analyst;

CREATE TYPE approx_score_report_row AS (
    roc_auc double precision, roc_auc_error double precision,
    average_precision double precision, average_precision_error double precision,
    positives double precision, negatives double precision, ignored double precision);
COMMENT ON TYPE approx_score_report_row IS 'What approx_score_report returns: the exact figures lie within the errors; ignored = rows with NULL or NaN';

CREATE FUNCTION _approx_score_report(state bytea) RETURNS approx_score_report_row
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (
    SELECT ROW(f[1], f[2], f[3], f[4], f[5], f[6], f[7])::@extschema@.approx_score_report_row
    FROM (VALUES (@extschema@._histogram_figures(state))) x (f)); END $$;
COMMENT ON FUNCTION _approx_score_report IS 'pg_finetune private: figures and errors as one row';
GRANT EXECUTE ON FUNCTION _approx_score_report TO finetune_analyst;

CREATE AGGREGATE approx_roc_auc(actual boolean, score double precision) (
    SFUNC = @extschema@._histogram_step, STYPE = bytea,
    FINALFUNC = @extschema@._histogram_auc,
    COMBINEFUNC = @extschema@._histogram_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE approx_roc_auc(boolean, double precision) IS 'roc_auc from 8,192 buckets of scores between 0 and 1: constant memory; approx_score_report states the error';
GRANT EXECUTE ON FUNCTION approx_roc_auc(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE approx_average_precision(actual boolean, score double precision) (
    SFUNC = @extschema@._histogram_step, STYPE = bytea,
    FINALFUNC = @extschema@._histogram_average_precision,
    COMBINEFUNC = @extschema@._histogram_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE approx_average_precision(boolean, double precision) IS 'average_precision from 8,192 buckets of scores between 0 and 1: constant memory; approx_score_report states the error';
GRANT EXECUTE ON FUNCTION approx_average_precision(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE approx_score_report(actual boolean, score double precision) (
    SFUNC = @extschema@._histogram_step, STYPE = bytea,
    FINALFUNC = @extschema@._approx_score_report,
    COMBINEFUNC = @extschema@._histogram_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE approx_score_report(boolean, double precision) IS 'approx_roc_auc and approx_average_precision with the most that each can be off, as one row';
GRANT EXECUTE ON FUNCTION approx_score_report(boolean, double precision) TO finetune_analyst;

CREATE FUNCTION _probability_step(state double precision[], actual boolean, probability double precision) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'probability_step_wrapper';
COMMENT ON FUNCTION _probability_step IS 'pg_finetune private: adds one row in ten bins';
GRANT EXECUTE ON FUNCTION _probability_step TO finetune_analyst;

CREATE FUNCTION _probability_step_weighted(state double precision[], actual boolean, probability double precision, weight double precision) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'probability_step_weighted_wrapper';
COMMENT ON FUNCTION _probability_step_weighted IS 'pg_finetune private: adds one row with its weight';
GRANT EXECUTE ON FUNCTION _probability_step_weighted TO finetune_analyst;

CREATE FUNCTION _probability_step_bins(state double precision[], actual boolean, probability double precision, bins integer) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'probability_step_bins_wrapper';
COMMENT ON FUNCTION _probability_step_bins IS 'pg_finetune private: adds one row in so many bins';
GRANT EXECUTE ON FUNCTION _probability_step_bins TO finetune_analyst;

CREATE FUNCTION _probability_combine(state double precision[], other double precision[]) RETURNS double precision[]
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'probability_combine_wrapper';
COMMENT ON FUNCTION _probability_combine IS 'pg_finetune private: adds the sums of two groups of rows';
GRANT EXECUTE ON FUNCTION _probability_combine TO finetune_analyst;

CREATE FUNCTION _probability_figures(state double precision[]) RETURNS double precision[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'probability_figures_wrapper';
COMMENT ON FUNCTION _probability_figures IS 'pg_finetune private: {Brier score, log loss, expected and largest calibration error}';
GRANT EXECUTE ON FUNCTION _probability_figures TO finetune_analyst;

CREATE FUNCTION _probability_bins(state double precision[]) RETURNS TABLE (bin integer, low double precision, high double precision,
    weight double precision, mean_probability double precision, share_positive double precision)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'probability_bins_wrapper';
COMMENT ON FUNCTION _probability_bins IS 'pg_finetune private: the bins that hold anything';
GRANT EXECUTE ON FUNCTION _probability_bins TO finetune_analyst;

CREATE FUNCTION _probability_brier(state double precision[]) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (@extschema@._probability_figures(state))[1]; END $$;
COMMENT ON FUNCTION _probability_brier IS 'pg_finetune private: Brier score';
GRANT EXECUTE ON FUNCTION _probability_brier TO finetune_analyst;

CREATE FUNCTION _probability_log_loss(state double precision[]) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (@extschema@._probability_figures(state))[2]; END $$;
COMMENT ON FUNCTION _probability_log_loss IS 'pg_finetune private: log loss';
GRANT EXECUTE ON FUNCTION _probability_log_loss TO finetune_analyst;

CREATE FUNCTION _probability_calibration_error(state double precision[]) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (@extschema@._probability_figures(state))[3]; END $$;
COMMENT ON FUNCTION _probability_calibration_error IS 'pg_finetune private: expected calibration error';
GRANT EXECUTE ON FUNCTION _probability_calibration_error TO finetune_analyst;

CREATE TYPE calibration_row AS (
    bin integer, low double precision, high double precision, weight double precision,
    mean_probability double precision, share_positive double precision);
COMMENT ON TYPE calibration_row IS 'What calibration_table returns, an array of: a calibrated model has mean_probability = share_positive in every bin';

CREATE FUNCTION _calibration_table(state double precision[]) RETURNS calibration_row[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ BEGIN RETURN (
    SELECT array_agg(ROW(b.*)::@extschema@.calibration_row ORDER BY b.bin) FROM @extschema@._probability_bins(state) b); END $$;
COMMENT ON FUNCTION _calibration_table IS 'pg_finetune private: the bins as an array of rows';
GRANT EXECUTE ON FUNCTION _calibration_table TO finetune_analyst;

CREATE AGGREGATE brier_score(actual boolean, probability double precision) (
    SFUNC = @extschema@._probability_step, STYPE = double precision[],
    FINALFUNC = @extschema@._probability_brier,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE brier_score(boolean, double precision) IS 'Mean squared distance of probability and outcome';
GRANT EXECUTE ON FUNCTION brier_score(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE brier_score(actual boolean, probability double precision, weight double precision) (
    SFUNC = @extschema@._probability_step_weighted, STYPE = double precision[],
    FINALFUNC = @extschema@._probability_brier,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE brier_score(boolean, double precision, double precision) IS 'Mean squared distance of probability and outcome; weight >= 0';
GRANT EXECUTE ON FUNCTION brier_score(boolean, double precision, double precision) TO finetune_analyst;

CREATE AGGREGATE log_loss(actual boolean, probability double precision) (
    SFUNC = @extschema@._probability_step, STYPE = double precision[],
    FINALFUNC = @extschema@._probability_log_loss,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE log_loss(boolean, double precision) IS 'Mean negative log likelihood; a certainty that was wrong costs 36, not infinity';
GRANT EXECUTE ON FUNCTION log_loss(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE log_loss(actual boolean, probability double precision, weight double precision) (
    SFUNC = @extschema@._probability_step_weighted, STYPE = double precision[],
    FINALFUNC = @extschema@._probability_log_loss,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE log_loss(boolean, double precision, double precision) IS 'Mean negative log likelihood; a certainty that was wrong costs 36, not infinity; weight >= 0';
GRANT EXECUTE ON FUNCTION log_loss(boolean, double precision, double precision) TO finetune_analyst;

CREATE AGGREGATE expected_calibration_error(actual boolean, probability double precision) (
    SFUNC = @extschema@._probability_step, STYPE = double precision[],
    FINALFUNC = @extschema@._probability_calibration_error,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE expected_calibration_error(boolean, double precision) IS 'Mean distance between promised and actual share over bins of equal width, ten of them';
GRANT EXECUTE ON FUNCTION expected_calibration_error(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE expected_calibration_error(actual boolean, probability double precision, bins integer) (
    SFUNC = @extschema@._probability_step_bins, STYPE = double precision[],
    FINALFUNC = @extschema@._probability_calibration_error,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE expected_calibration_error(boolean, double precision, integer) IS 'Mean distance between promised and actual share over bins of equal width';
GRANT EXECUTE ON FUNCTION expected_calibration_error(boolean, double precision, integer) TO finetune_analyst;

CREATE AGGREGATE calibration_table(actual boolean, probability double precision) (
    SFUNC = @extschema@._probability_step, STYPE = double precision[],
    FINALFUNC = @extschema@._calibration_table,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE calibration_table(boolean, double precision) IS 'What was promised and what happened, by bins of equal width, as an array: SELECT * FROM unnest((SELECT calibration_table(actual, probability) FROM ...))';
GRANT EXECUTE ON FUNCTION calibration_table(boolean, double precision) TO finetune_analyst;

CREATE AGGREGATE calibration_table(actual boolean, probability double precision, bins integer) (
    SFUNC = @extschema@._probability_step_bins, STYPE = double precision[],
    FINALFUNC = @extschema@._calibration_table,
    COMBINEFUNC = @extschema@._probability_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE calibration_table(boolean, double precision, integer) IS 'What was promised and what happened, by bins of equal width, as an array: SELECT * FROM unnest((SELECT calibration_table(actual, probability) FROM ...))';
GRANT EXECUTE ON FUNCTION calibration_table(boolean, double precision, integer) TO finetune_analyst;

CREATE FUNCTION population_stability_index(before bigint[], after bigint[]) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'population_stability_index_wrapper';
COMMENT ON FUNCTION population_stability_index IS 'How far two counted distributions over the same buckets are apart: below 0.1 alike, above 0.25 different. Of score buckets only when both models are calibrated';
GRANT EXECUTE ON FUNCTION population_stability_index TO finetune_analyst;

//! pg_finetune: what users do with what they are shown becomes a better model, inside Postgres.
//!
//! Data flows one way: `api` and `worker` call `pg` and `core`; `core` calls nobody. SQL objects are written by
//! hand in `sql/`, in the order below; Rust supplies the functions they name.

mod api;
mod core;
mod pg;
mod providers;
mod worker;

use pgrx::prelude::*;

pg_module_magic!(name, version);

extension_sql_file!("../sql/preamble.sql", name = "preamble", bootstrap);
extension_sql_file!("../sql/roles.sql", name = "roles", requires = ["preamble"]);
extension_sql_file!("../sql/tables_data.sql", name = "tables_data", requires = ["roles"]);
extension_sql_file!("../sql/tables_config.sql", name = "tables_config", requires = ["tables_data"]);
extension_sql_file!("../sql/tables_state.sql", name = "tables_state", requires = ["tables_config"]);
extension_sql_file!("../sql/providers.sql", name = "providers", requires = ["tables_state"]);
extension_sql_file!("../sql/prices.sql", name = "prices", requires = ["providers"]);
extension_sql_file!("../sql/deployment.sql", name = "deployment", requires = ["prices"]);
extension_sql_file!("../sql/assignment.sql", name = "assignment", requires = ["deployment"]);
extension_sql_file!("../sql/experiment.sql", name = "experiment", requires = ["assignment"]);
extension_sql_file!("../sql/experiment_layers.sql", name = "experiment_layers", requires = ["experiment"]);
extension_sql_file!("../sql/experiment_exchange.sql", name = "experiment_exchange", requires = ["experiment_layers"]);
extension_sql_file!("../sql/aggregates.sql", name = "aggregates", requires = ["experiment_exchange"]);
extension_sql_file!("../sql/score_aggregates.sql", name = "score_aggregates", requires = ["aggregates"]);
extension_sql_file!("../sql/binned_aggregates.sql", name = "binned_aggregates", requires = ["score_aggregates"]);
extension_sql_file!("../sql/ranking.sql", name = "ranking", requires = ["binned_aggregates"]);
extension_sql_file!("../sql/metrics.sql", name = "metrics", requires = ["ranking"]);
extension_sql_file!("../sql/overview.sql", name = "overview", requires = ["metrics"]);
extension_sql_file!("../sql/results.sql", name = "results", requires = ["overview"]);
extension_sql_file!("../sql/statistics.sql", name = "statistics", requires = ["results"]);
extension_sql_file!("../sql/health.sql", name = "health", requires = ["statistics"]);
extension_sql_file!("../sql/report.sql", name = "report", requires = ["health"]);
extension_sql_file!("../sql/profile.sql", name = "profile", requires = ["report"]);
extension_sql_file!("../sql/capture.sql", name = "capture", requires = ["profile"]);
extension_sql_file!("../sql/capture_statement.sql", name = "capture_statement", requires = ["capture"]);
extension_sql_file!("../sql/capture_triggers.sql", name = "capture_triggers", requires = ["capture_statement"]);
extension_sql_file!("../sql/capture_api.sql", name = "capture_api", requires = ["capture_triggers"]);
extension_sql_file!("../sql/capture_people.sql", name = "capture_people", requires = ["capture_api"]);
extension_sql_file!("../sql/forgetting.sql", name = "forgetting", requires = ["capture_people"]);
extension_sql_file!("../sql/import.sql", name = "import", requires = ["forgetting"]);
extension_sql_file!("../sql/retention.sql", name = "retention", requires = ["import"]);
extension_sql_file!("../sql/dataset_parameters.sql", name = "dataset_parameters", requires = ["retention"]);
extension_sql_file!("../sql/dataset_collect.sql", name = "dataset_collect", requires = ["dataset_parameters"]);
extension_sql_file!("../sql/dataset_split.sql", name = "dataset_split", requires = ["dataset_collect"]);
extension_sql_file!("../sql/dataset_counts.sql", name = "dataset_counts", requires = ["dataset_split"]);
extension_sql_file!("../sql/dataset.sql", name = "dataset", requires = ["dataset_counts"]);
extension_sql_file!("../sql/dataset_export.sql", name = "dataset_export", requires = ["dataset"]);
extension_sql_file!("../sql/jobs.sql", name = "jobs", requires = ["dataset_export"]);
extension_sql_file!("../sql/worker.sql", name = "worker", requires = ["jobs"]);
extension_sql_file!("../sql/provider_jobs.sql", name = "provider_jobs", requires = ["worker"]);
extension_sql_file!("../sql/retraining.sql", name = "retraining", requires = ["provider_jobs"]);
extension_sql_file!("../sql/rollout.sql", name = "rollout", requires = ["retraining"]);
extension_sql_file!("../sql/serving.sql", name = "serving", requires = ["rollout"]);
extension_sql_file!("../sql/typed.sql", name = "typed", requires = ["serving"]);
extension_sql_file!("../sql/rank_signals.sql", name = "rank_signals", requires = ["typed"]);
extension_sql_file!("../sql/shadow.sql", name = "shadow", requires = ["rank_signals"]);
extension_sql_file!("../sql/evaluation.sql", name = "evaluation", requires = ["shadow"]);
extension_sql_file!("../sql/doctor.sql", name = "doctor", requires = ["evaluation"]);
extension_sql_file!("../sql/grants.sql", name = "grants", requires = ["doctor"]);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::settings::define();
    worker::register();
}

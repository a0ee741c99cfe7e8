//! What to do with a running experiment: a pure function of one snapshot of numbers. The snapshot is stored with the
//! decision, so that any decision can be taken again and must come out the same.

use super::margin::{contrast, judge, judge_hybrid, Claim, Verdict};
use super::ratio::{Reason, Sums};
use super::sequence::Sequence;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A metric of both arms: {users, ΣM, ΣD, ΣM², ΣD², ΣMD, largest D}.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    pub metric: String,
    pub margin: f64,
    pub higher_is_better: bool,
    pub base: [i64; 7],
    pub fine_tuned: [i64; 7],
}

/// What the owner of the rollout wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Coverages in the order in which they are taken, the last is the planned one.
    pub steps: Vec<f64>,
    /// Users per arm, and hours, that a step lasts at least.
    pub min_users: i64,
    pub min_hours: f64,
    pub min_days: f64,
    pub max_days: f64,
    pub planned_users: i64,
    pub alpha: f64,
    pub guardrail_alpha: f64,
    pub hybrid: bool,
}

/// One look at an experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub settings: Settings,
    pub coverage: f64,
    pub days: f64,
    pub hours_in_step: f64,
    /// Users of the smaller arm who were shown something since the step began.
    pub users_in_step: i64,
    /// Users of base and of fineTuned who were shown something at all.
    pub users: [i64; 2],
    /// The model outside the experiment is still the one of the arm `base`.
    pub base_is_live: bool,
    /// Health checks in alarm.
    pub alarms: Vec<String>,
    pub goal: Measure,
    pub guardrails: Vec<Measure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Continue,
    Hold,
    Promote,
    RollBack,
    Inconclusive,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continue => "continue",
            Self::Hold => "hold",
            Self::Promote => "promote",
            Self::RollBack => "roll_back",
            Self::Inconclusive => "inconclusive",
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub decision: Decision,
    pub reason: String,
    /// Coverage to go to.
    pub next_coverage: Option<f64>,
}

impl Outcome {
    fn of(decision: Decision, reason: impl Into<String>) -> Self {
        Self { decision, reason: reason.into(), next_coverage: None }
    }
}

/// First what speaks against believing anything, then against the candidate, then for it; else time decides.
pub fn decide(look: &Snapshot) -> Outcome {
    unhealthy(look)
        .or_else(|| look.guardrails.iter().find_map(|guardrail| broken(guardrail, &look.settings)))
        .or_else(|| by_goal(look))
        .unwrap_or_else(|| Outcome { next_coverage: next_step(look), ..Outcome::of(Decision::Continue, waiting(look)) })
}

fn unhealthy(look: &Snapshot) -> Option<Outcome> {
    if !look.alarms.is_empty() {
        return Some(Outcome::of(Decision::Hold, format!("health alarms: {}", look.alarms.join(", "))));
    }
    look.users.contains(&0).then(|| Outcome::of(Decision::Hold, "an arm has no data yet"))
}

/// A guardrail proved worse than its allowance.
fn broken(guardrail: &Measure, settings: &Settings) -> Option<Outcome> {
    let sequence_alpha = settings.guardrail_alpha;
    let worse = Measure { higher_is_better: !guardrail.higher_is_better, ..guardrail.clone() };
    let verdict = verdict(&worse, settings, sequence_alpha, false).ok()?;
    (verdict == Verdict::Proved)
        .then(|| Outcome::of(Decision::RollBack, format!("{} is proved worse than allowed", guardrail.metric)))
}

fn by_goal(look: &Snapshot) -> Option<Outcome> {
    let settings = &look.settings;
    let proved = verdict(&look.goal, settings, settings.alpha / 2.0, settings.hybrid) == Ok(Verdict::Proved);
    let seen = look.goal.base[0] + look.goal.fine_tuned[0];
    if look.days < settings.min_days {
        return None;
    }
    if proved && at_last_step(look) && look.guardrails.iter().all(has_data) {
        return Some(match look.base_is_live {
            true => Outcome::of(Decision::Promote, format!("{} is proved better", look.goal.metric)),
            false => Outcome::of(Decision::Hold, "another model was deployed meanwhile: a person has to choose"),
        });
    }
    let ended = if look.days >= settings.max_days {
        "max_days are over"
    } else if seen >= settings.planned_users && !proved {
        "planned_users are reached"
    } else {
        return None;
    };
    Some(Outcome::of(Decision::Inconclusive, format!("{ended} and {} is not proved better", look.goal.metric)))
}

fn has_data(measure: &Measure) -> bool {
    measure.base[2] > 0 && measure.fine_tuned[2] > 0
}

fn at_last_step(look: &Snapshot) -> bool {
    look.settings.steps.last().is_none_or(|last| look.coverage >= *last)
}

/// None of it is judged while there is too little data, or data of the wrong kind.
fn verdict(measure: &Measure, settings: &Settings, alpha: f64, hybrid: bool) -> Result<Verdict, Reason> {
    let [base, new] = [&measure.base, &measure.fine_tuned].map(|s| Sums {
        users: s[0],
        m: s[1],
        d: s[2],
        mm: s[3],
        dd: s[4],
        md: s[5],
        largest_d: s[6],
    });
    if let Some(doubt) = base.doubt().into_iter().chain(new.doubt()).min() {
        return Err(doubt);
    }
    let claim = if measure.higher_is_better { Claim::AtLeast(measure.margin) } else { Claim::AtMost(measure.margin) };
    let (base, new) = (base.arm()?, new.arm()?);
    let sequence =
        Sequence { users: base.users + new.users, planned_users: settings.planned_users.max(1) as f64, alpha };
    let judge = if hybrid { judge_hybrid } else { judge };
    Ok(judge(contrast(&base, &new, claim), &sequence).0)
}

fn next_step(look: &Snapshot) -> Option<f64> {
    let settings = &look.settings;
    let lasted = look.hours_in_step >= settings.min_hours && look.users_in_step >= settings.min_users;
    settings.steps.iter().copied().find(|step| *step > look.coverage).filter(|_| lasted)
}

fn waiting(look: &Snapshot) -> String {
    match next_step(look) {
        Some(step) => format!("coverage goes from {} to {step}", look.coverage),
        None if !at_last_step(look) => format!("the step at coverage {} has not lasted long enough", look.coverage),
        None if look.days < look.settings.min_days => format!("fewer than {} days have passed", look.settings.min_days),
        None => format!("{} is neither proved better nor given up", look.goal.metric),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::sums_of_users;
    use super::*;

    /// 10 items for each of `users`, of which `mean` are counted on average.
    fn arm(users: i64, mean: i64) -> [i64; 7] {
        let rows: Vec<_> = (0..users).map(|user| (mean - 1 + user % 3, 10)).collect();
        let s = sums_of_users(&rows);
        [s.users, s.m, s.d, s.mm, s.dd, s.md, s.largest_d]
    }

    fn measure(metric: &str, higher_is_better: bool, base: [i64; 7], fine_tuned: [i64; 7]) -> Measure {
        Measure { metric: metric.to_string(), margin: 0.0, higher_is_better, base, fine_tuned }
    }

    /// A healthy rollout at its last step in which the goal is clearly better and the guardrail the same.
    fn winning() -> Snapshot {
        Snapshot {
            settings: Settings {
                steps: vec![0.02, 0.1, 0.2, 0.5, 1.0],
                min_users: 100,
                min_hours: 24.0,
                min_days: 7.0,
                max_days: 60.0,
                planned_users: 2000,
                alpha: 0.05,
                guardrail_alpha: 0.01,
                hybrid: false,
            },
            coverage: 1.0,
            days: 8.0,
            hours_in_step: 30.0,
            users_in_step: 150,
            users: [500, 500],
            base_is_live: true,
            alarms: vec![],
            goal: measure("save_rate", true, arm(500, 3), arm(500, 5)),
            guardrails: vec![measure("false_suggestion_rate", false, arm(500, 4), arm(500, 4))],
        }
    }

    #[test]
    fn every_transition() {
        use Decision::*;
        type Case = (&'static str, fn(&mut Snapshot), Decision, Option<f64>, &'static str);
        let cases: [Case; 18] = [
            ("proof promotes", |_| (), Promote, None, "save_rate is proved better"),
            ("an alarm holds", |s| s.alarms = vec!["split".into(), "leak".into()], Hold, None, "split, leak"),
            (
                "an alarm holds even a rollback",
                |s| {
                    s.alarms = vec!["split".into()];
                    s.guardrails[0] = measure("x", false, arm(500, 3), arm(500, 6));
                },
                Hold,
                None,
                "split",
            ),
            ("no data holds", |s| s.users = [500, 0], Hold, None, "no data"),
            ("without data the goal is not judged", |s| s.goal.fine_tuned = [0; 7], Continue, None, "neither proved"),
            (
                "a worse guardrail rolls back, before the goal is asked",
                |s| {
                    s.guardrails[0] = measure("x", false, arm(500, 3), arm(500, 6));
                },
                RollBack,
                None,
                "x is proved worse",
            ),
            (
                "on the first day, too",
                |s| {
                    (s.days, s.coverage) = (0.2, 0.02);
                    s.guardrails[0] = measure("x", false, arm(150, 3), arm(150, 6));
                },
                RollBack,
                None,
                "x is proved worse",
            ),
            (
                "but not by fewer than 100 users",
                |s| {
                    (s.days, s.coverage) = (0.2, 0.02);
                    s.guardrails[0] = measure("x", false, arm(99, 3), arm(99, 6));
                    s.hours_in_step = 1.0;
                },
                Continue,
                None,
                "not lasted long enough",
            ),
            (
                "within its allowance a guardrail may fall",
                |s| {
                    s.guardrails[0] = Measure { margin: 1.5, ..measure("x", false, arm(500, 3), arm(500, 6)) };
                },
                Promote,
                None,
                "save_rate",
            ),
            (
                "a guardrail without data promotes nothing",
                |s| {
                    s.guardrails[0] = measure("x", false, [0; 7], [0; 7]);
                },
                Continue,
                None,
                "neither proved",
            ),
            ("no promotion within a week", |s| s.days = 6.9, Continue, None, "fewer than 7 days"),
            ("no promotion before the planned coverage", |s| s.coverage = 0.5, Continue, Some(1.0), "0.5 to 1"),
            ("a step takes its hours", |s| (s.coverage, s.hours_in_step) = (0.5, 23.0), Continue, None, "long enough"),
            ("and its users", |s| (s.coverage, s.users_in_step) = (0.1, 99), Continue, None, "long enough"),
            (
                "planned users without proof end it",
                |s| {
                    s.goal = measure("save_rate", true, arm(1000, 4), arm(1000, 4));
                },
                Inconclusive,
                None,
                "planned_users",
            ),
            (
                "and so does time",
                |s| {
                    s.goal = measure("save_rate", true, arm(500, 4), arm(500, 4));
                    s.days = 60.0;
                },
                Inconclusive,
                None,
                "max_days",
            ),
            (
                "without either it goes on",
                |s| {
                    s.goal = measure("save_rate", true, arm(500, 4), arm(500, 4));
                },
                Continue,
                None,
                "neither proved",
            ),
            ("a person's deployment is not overruled", |s| s.base_is_live = false, Hold, None, "a person"),
        ];
        for (what, change, decision, next_coverage, reason) in cases {
            let mut look = winning();
            change(&mut look);
            let outcome = decide(&look);
            assert_eq!((outcome.decision, outcome.next_coverage), (decision, next_coverage), "{what}: {outcome:?}");
            assert!(outcome.reason.contains(reason), "{what}: {}", outcome.reason);
        }
        println!("rollout decisions: {} cases", cases.len());
    }

    #[test]
    fn a_snapshot_survives_json_and_decides_the_same() {
        let look = winning();
        let again: Snapshot = serde_json::from_str(&serde_json::to_string(&look).unwrap()).unwrap();
        assert_eq!(decide(&again), decide(&look));
        assert_eq!(Decision::RollBack.to_string(), "roll_back");
    }

    #[test]
    fn a_hybrid_decides_at_the_planned_end_what_a_sequence_leaves_open() {
        let mut look = winning();
        // A small effect: about 2.6 standard errors.
        look.goal = measure("save_rate", true, arm(1000, 4), arm(1000, 4));
        look.goal.fine_tuned[1] += 95;
        look.goal.fine_tuned[3] += 95 * 7; // 3 becomes 4 for 95 users
        look.goal.fine_tuned[5] += 950;
        assert_eq!(decide(&look).decision, Decision::Inconclusive);
        look.settings.hybrid = true;
        assert_eq!(decide(&look).decision, Decision::Promote);
        look.settings.planned_users = 2001;
        assert_eq!(decide(&look).decision, Decision::Continue);
    }
}

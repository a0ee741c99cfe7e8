//! Typed questions: their vectors are another kind of anchor, so they have a matrix of their own, which starts at "change
//! nothing" and stays there unless the gate says otherwise. Compared are items that one user was shown for one question.

use std::collections::BTreeMap;

use serde::Serialize;

use super::adapter::{Adapter, Pair};
use super::calibrate::Space;
use super::candidates::{ahead, MIN_COVERAGE, PROVED};
use super::error::Error;
use super::evaluate::{measure_queries, Coverage};
use super::examples::{draw, ExampleReport, Examples};
use super::fit::Task;
use super::gate::{self, Evaluation, Gate, Side, Verdict};
use super::input::{Action, Data, User};
use super::panel::{self, List, Member, Panel, Unit, MIN_GATE, MIN_SELECTION};
use super::params::Params;
use super::progress::Watch;
use super::rng;

const NAME: &str = "typed questions";

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TypedReport {
    /// Actions on items that were shown for a question.
    pub events: usize,
    pub examples: ExampleReport,
    pub best_epoch: usize,
    pub evaluation: Option<Evaluation>,
    pub verdict: Option<Verdict>,
    pub reason: String,
}

/// Who fits, selects and judges: other users than those of the profiles, since other users may have asked.
struct Roles {
    fit: Vec<usize>,
    selection: Vec<Member>,
    gate: Vec<Member>,
}

/// The pair, if it is better than none; nothing to report where nobody asked.
pub(super) fn train(
    data: &Data,
    params: &Params,
    share: (f64, f64),
    watch: &mut Watch<'_>,
) -> Result<(Option<Pair>, Option<TypedReport>), Error> {
    let mut report = TypedReport { events: events(data), ..TypedReport::default() };
    if report.events == 0 {
        return Ok((None, None));
    }
    let roles = assign(&data.users, params.seed);
    let examples = examples(data, &roles.fit, params, watch)?;
    report.examples = examples.report;
    if let Some(reason) = too_little(&roles, &examples, params) {
        report.reason = reason;
        return Ok((None, Some(report)));
    }
    let panel = |members: &[Member], watch: &mut Watch<'_>| panel_of(members.to_vec(), data, watch);
    let (selection, judges) = (panel(&roles.selection, watch)?, panel(&roles.gate, watch)?);
    let identity = Adapter::identity(data.items.dim());
    let fitted = Task {
        name: NAME,
        items: &data.items,
        sums: &data.queries,
        examples: &examples,
        validation: &selection,
        validation_queries: &selection.queries(&identity, watch)?,
        params,
        share,
    }
    .fit(watch)?;
    report.best_epoch = fitted.best_epoch;
    let Some(residual) = fitted.residual else {
        report.reason = "typed questions stay as they are: nothing that was learned ranked better".into();
        return Ok((None, Some(report)));
    };
    let folded = Space::raw(data.items.dim()).fold(Some(&residual.dense()), watch)?;
    let model = Adapter { matrix: folded.matrix, bias: folded.bias, ..identity.clone() };
    let unchanged = unproved(data, params, &selection, [&identity, &model], watch)?;
    let (evaluation, verdict, reason) = judged(data, params, &roles, &judges, [&identity, &model], unchanged, watch)?;
    let pair = (verdict == Verdict::Passed).then_some(Pair { matrix: model.matrix, bias: model.bias });
    report = TypedReport { evaluation: Some(evaluation), verdict: Some(verdict), reason, ..report };
    Ok((pair, Some(report)))
}

fn events(data: &Data) -> usize {
    let asked = |actions: &[Action]| actions.iter().filter(|action| action.query.is_some()).count();
    data.users.iter().map(|user| asked(&user.train) + asked(&user.test)).sum()
}

/// By hash of the user's name, as for the profiles; the newest actions judge.
fn assign(users: &[User], seed: i64) -> Roles {
    let mut queue: Vec<usize> = (0..users.len()).collect();
    queue.sort_by_cached_key(|&index| (rng::hash(seed, &["typed role", &users[index].name]), index));
    let size = |least: usize| ((users.len() as f64 * 0.15).round() as usize).clamp(least, 2_000);
    let gate = panel::take(&mut queue, size(MIN_GATE), |index| member(index, &users[index].test));
    let selection = panel::take(&mut queue, size(MIN_SELECTION), |index| member(index, &users[index].train));
    queue.sort_unstable();
    Roles { fit: queue, selection, gate }
}

fn by_question(actions: &[Action]) -> BTreeMap<(u32, u32), Vec<Action>> {
    let mut asked: BTreeMap<(u32, u32), Vec<Action>> = BTreeMap::new();
    for action in actions {
        if let Some(query) = action.query {
            asked.entry((query, action.surface)).or_default().push(*action);
        }
    }
    asked
}

/// Lists of one question each; their anchors are numbers of queries for now.
fn member(user: usize, actions: &[Action]) -> Option<Member> {
    let lists = by_question(actions).into_iter().filter_map(|((query, _), shown)| {
        let list = List::of_both_kinds(shown.iter().map(|action| (action.item, action.saved)).collect())?;
        Some(List { anchor: query, ..list })
    });
    let lists: Vec<List> = lists.collect();
    (!lists.is_empty()).then_some(Member { user, saved: Vec::new(), skipped: Vec::new(), lists })
}

fn panel_of(mut members: Vec<Member>, data: &Data, watch: &mut Watch<'_>) -> Result<Panel, Error> {
    let mut asked: Vec<u32> = members.iter().flat_map(|m| m.lists.iter().map(|list| list.anchor)).collect();
    asked.sort_unstable();
    asked.dedup();
    for list in members.iter_mut().flat_map(|member| &mut member.lists) {
        list.anchor = asked.binary_search(&list.anchor).unwrap_or_default() as u32;
    }
    Ok(Panel::of_queries(members, data.queries.gather(&asked, watch)?))
}

/// Each saved item against those skipped for the same question; the anchor is the question itself.
fn examples(data: &Data, fit: &[usize], params: &Params, watch: &mut Watch<'_>) -> Result<Examples, Error> {
    let mut all = Examples { width: 1 + params.negatives_per_positive, ..Examples::default() };
    for &index in fit {
        watch.check()?;
        let user = &data.users[index];
        let mut rng = rng::stream(params.seed, &format!("typed examples {}", user.name));
        let (before, saved) = (all.len(), User::saved(&user.train));
        for ((query, _), shown) in by_question(&user.train) {
            let (positives, mut pool): (Vec<Action>, Vec<Action>) = shown.into_iter().partition(|a| a.saved);
            all.only_unlike(&mut pool, &saved, &data.items, &mut rng, watch)?;
            if pool.is_empty() {
                all.report.saved_without_skipped += positives.len();
                continue;
            }
            for positive in positives {
                let place = all.len().to_string();
                all.ranks.push(rng::hash(params.seed, &["typed cap", &user.name, &place]));
                all.items.push(positive.item);
                all.items.extend(draw(&pool, params.negatives_per_positive, &mut rng));
                all.profile.push(query);
                all.weights.push(positive.weight);
            }
        }
        all.report.users += usize::from(all.len() > before);
    }
    all.cap(params);
    all.report.examples = all.len();
    Ok(all)
}

fn too_little(roles: &Roles, examples: &Examples, params: &Params) -> Option<String> {
    let lacks = |found: usize, needed: usize, what: &str| {
        (found < needed).then(|| {
            format!("typed questions stay as they are: {found} {what}, {needed} are needed: {} more", needed - found)
        })
    };
    let needed = params.min_events_training / 4;
    lacks(roles.gate.len(), MIN_GATE, "users with saved and skipped items for one question among their newest")
        .or_else(|| lacks(roles.selection.len(), MIN_SELECTION, "users with both kinds for one question to select on"))
        .or_else(|| lacks(examples.len(), needed, "saved items beside skipped ones of the same question"))
}

/// Why the pair does not go to the gate, if so.
fn unproved(
    data: &Data,
    params: &Params,
    selection: &Panel,
    [base, model]: [&Adapter; 2],
    watch: &mut Watch<'_>,
) -> Result<Option<&'static str>, Error> {
    let mut aucs = |adapter: &Adapter| {
        let queries = selection.queries(adapter, watch)?;
        let measures = measure_queries(selection, &data.items, &queries, watch)?;
        let coverage = Coverage::new(selection, &data.items, params.seed, watch)?.of(&queries, watch)?;
        Ok::<_, Error>((measures.iter().map(|m| m.auc).collect::<Vec<f64>>(), coverage))
    };
    let ((old, before), (new, after)) = (aucs(base)?, aucs(model)?);
    let proved = ahead(&new, &old, PROVED) && after >= MIN_COVERAGE * before;
    Ok((!proved).then_some("typed questions stay as they are: nothing that was learned ranked clearly better"))
}

fn judged(
    data: &Data,
    params: &Params,
    roles: &Roles,
    judges: &Panel,
    [base, model]: [&Adapter; 2],
    unchanged: Option<&str>,
    watch: &mut Watch<'_>,
) -> Result<(Evaluation, Verdict, String), Error> {
    let mut seen = vec![false; data.items.len()];
    let known = roles.fit.iter().copied().chain(roles.selection.iter().map(|member| member.user));
    let known = known.flat_map(|user| &data.users[user].train);
    known.for_each(|action| seen[action.item as usize] = true);
    let cold = judges.filtered(|item| !seen[item as usize]);
    let coverage = Coverage::new(judges, &data.items, params.seed, watch)?;
    let side = |adapter| Side { panel: judges, cold: &cold, items: &data.items, coverage: &coverage, adapter };
    let gate = Gate { draws: params.bootstrap_draws, seed: params.seed };
    let evaluation = gate.evaluate(&side(base), &side(model), watch)?;
    let (verdict, reason) = gate::judge(&evaluation, Unit::Users, unchanged);
    Ok((evaluation, verdict, reason))
}

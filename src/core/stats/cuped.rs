//! CUPED: what users did before the experiment explains part of how they differ; taken out, the interval gets narrower.
//! Both sides are ratios of sums over users, made linear: Y = (M - R·D)/d̄ after, X = (P - S·Q)/q̄ before the first
//! impression. A plain mean is the case D = Q = 1. A user without a past has X = 0, which is the mean.

use super::lift::{student_test, Estimate};

/// Of one arm: users, means, variances and covariance of Y and X.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    pub users: f64,
    pub y: f64,
    pub x: f64,
    pub var_y: f64,
    pub var_x: f64,
    pub covariance: f64,
}

/// Exact sums over the users of an arm: after (m of d), before (p of q).
#[derive(Clone, Copy, Debug)]
pub struct PairedSums {
    pub users: i64,
    pub after: [i64; 5],
    pub before: [i64; 5],
    pub cross: [i64; 4],
}

/// Sums of both arms as moments; X is made linear around the ratio of both arms together. None when nothing is to be
/// counted before or after.
pub fn moments(base: &PairedSums, new: &PairedSums) -> Option<(Moments, Moments)> {
    let [p, q] = [0, 1].map(|i| (base.before[i] + new.before[i]) as f64);
    let past = (q > 0.0).then(|| Line { ratio: p / q, scale: (base.users + new.users) as f64 / q })?;
    Some((one_arm(base, past)?, one_arm(new, past)?))
}

/// (m - ratio·d)·scale.
#[derive(Clone, Copy)]
struct Line {
    ratio: f64,
    scale: f64,
}

fn one_arm(sums: &PairedSums, past: Line) -> Option<Moments> {
    let [m, d, mm, dd, md] = sums.after;
    let [p, q, pp, qq, pq] = sums.before;
    let [mp, mq, dp, dq] = sums.cross;
    if sums.users < 2 || d == 0 {
        return None;
    }
    let n = sums.users as f64;
    let covariance = |product: i64, a: i64, b: i64| covariance(sums.users, product, a, b);
    let now = Line { ratio: m as f64 / d as f64, scale: n / d as f64 };
    let variance = |line: Line, aa: f64, bb: f64, ab: f64| {
        line.scale.powi(2) * (aa - 2.0 * line.ratio * ab + line.ratio.powi(2) * bb)
    };
    Some(Moments {
        users: n,
        y: now.ratio,
        x: (p as f64 - past.ratio * q as f64) * past.scale / n,
        var_y: variance(now, covariance(mm, m, m), covariance(dd, d, d), covariance(md, m, d)),
        var_x: variance(past, covariance(pp, p, p), covariance(qq, q, q), covariance(pq, p, q)),
        covariance: now.scale
            * past.scale
            * (covariance(mp, m, p) - past.ratio * covariance(mq, m, q) - now.ratio * covariance(dp, d, p)
                + now.ratio * past.ratio * covariance(dq, d, q)),
    })
}

/// With divisor n - 1; the difference of large products is taken in whole numbers.
fn covariance(n: i64, product: i64, a: i64, b: i64) -> f64 {
    let [n, product, a, b] = [n, product, a, b].map(i128::from);
    (n * product - a * b) as f64 / (n as f64 * (n - 1) as f64)
}

/// The difference of two arms with what the past explains taken out, beside the one without.
#[derive(Clone, Copy, Debug)]
pub struct Adjusted {
    pub theta: f64,
    pub plain: Estimate,
    pub adjusted: Estimate,
    /// Half-width and p of Welch's t test at one look, of the adjusted difference.
    pub fixed: Option<(f64, f64)>,
    /// Share of the variance that the past explained.
    pub variance_reduction: f64,
    pub lift: Option<Estimate>,
}

pub fn adjust(base: &Moments, new: &Moments, alpha: f64) -> Adjusted {
    // Over the users of both arms together.
    let within = |f: fn(&Moments) -> f64| (base.users - 1.0) * f(base) + (new.users - 1.0) * f(new);
    let between = base.users * new.users / (base.users + new.users);
    let (gap_y, gap_x) = (new.y - base.y, new.x - base.x);
    let var_x = within(|m| m.var_x) + between * gap_x * gap_x;
    let shared = within(|m| m.covariance) + between * gap_y * gap_x;
    let theta = if var_x > 0.0 && within(|m| m.var_y) > 0.0 { shared / var_x } else { 0.0 };
    let spread =
        |arm: &Moments, theta: f64| (arm.var_y + theta * theta * arm.var_x - 2.0 * theta * arm.covariance) / arm.users;
    let estimate = |theta: f64| Estimate {
        value: (new.y - theta * new.x) - (base.y - theta * base.x),
        se: (spread(new, theta) + spread(base, theta)).sqrt(),
    };
    let (plain, adjusted) = (estimate(0.0), estimate(theta));
    Adjusted {
        theta,
        plain,
        adjusted,
        fixed: student_test(adjusted, (spread(base, theta), base.users), (spread(new, theta), new.users), alpha),
        variance_reduction: 1.0 - (adjusted.se / plain.se).powi(2),
        lift: (base.y > 0.0).then(|| lift(base, new, theta, adjusted, spread(new, theta))),
    }
}

/// Adjusted difference over the base's mean. The base's mean stands above and below the line: the gradient knows both.
fn lift(base: &Moments, new: &Moments, theta: f64, adjusted: Estimate, new_spread: f64) -> Estimate {
    let by_y = -(new.y - theta * new.x + theta * base.x) / (base.y * base.y);
    let by_x = theta / base.y;
    let base_spread = by_y * by_y * base.var_y + 2.0 * by_y * by_x * base.covariance + by_x * by_x * base.var_x;
    Estimate { value: adjusted.value / base.y, se: (new_spread / (base.y * base.y) + base_spread / base.users).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close, close_to, fixture, integers, number};
    use super::*;

    /// Columns saved and pre_saved of the 84 users, as plain means.
    fn paired(users: &str) -> PairedSums {
        let file = fixture();
        let rows: Vec<_> = file["delta_method"][users].as_array().unwrap().iter().map(integers).collect();
        let sum = |f: &dyn Fn(i64, i64) -> i64| rows.iter().map(|row| f(row[1], row[3])).sum::<i64>();
        let n = rows.len() as i64;
        let [y, x] = [sum(&|y, _| y), sum(&|_, x| x)];
        PairedSums {
            users: n,
            after: [y, n, sum(&|y, _| y * y), n, y],
            before: [x, n, sum(&|_, x| x * x), n, x],
            cross: [sum(&|y, x| y * x), y, x, n],
        }
    }

    #[test]
    fn the_84_users_match() {
        let file = fixture();
        let (absolute, relative) = (&file["cuped"]["absolute"], &file["cuped"]["relative"]);
        let (base, new) = moments(&paired("control_users"), &paired("treatment_users")).unwrap();
        let a = adjust(&base, &new, 0.05);
        close(a.theta, &absolute["theta_pooled"]);
        close(a.adjusted.value, &absolute["point"]);
        close(a.adjusted.se, &absolute["se"]);
        close(a.plain.value, &absolute["unadjusted"]["point"]);
        close(a.plain.se, &absolute["unadjusted"]["se"]);
        close(a.variance_reduction, &absolute["variance_reduction"]);
        let (half, p) = a.fixed.unwrap();
        close(a.adjusted.value - half, &absolute["ci95"][0]);
        close(p, &absolute["p"]);
        let lift = a.lift.unwrap();
        close(lift.value, &relative["point"]);
        close_to(lift.se, number(&relative["se_exact_gradient"]), 1e-9);
        println!("CUPED: 2 rows");
    }

    #[test]
    fn without_a_past_nothing_changes() {
        let mut base = paired("control_users");
        let mut new = paired("treatment_users");
        for arm in [&mut base, &mut new] {
            (arm.before, arm.cross) = ([0, arm.users, 0, arm.users, 0], [0, arm.after[0], 0, arm.users]);
        }
        let (b, n) = moments(&base, &new).unwrap();
        let a = adjust(&b, &n, 0.05);
        assert_eq!((a.theta, a.variance_reduction), (0.0, 0.0));
        assert_eq!(a.plain.value, a.adjusted.value);
        base.before = [0; 5];
        new.before = [0; 5];
        assert!(moments(&base, &new).is_none());
    }
}

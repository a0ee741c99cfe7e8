//! One arm: a ratio of sums over users, with the delta-method variance that respects several events per user.

use std::fmt;

/// Sufficient statistics over the users of an arm: M counts what happened, D how often it could have.
/// Exact integers, because the variance is a small difference of large sums.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    pub users: i64,
    pub m: i64,
    pub d: i64,
    pub mm: i64,
    pub dd: i64,
    pub md: i64,
    pub largest_d: i64,
}

/// Why a number is missing, or present but not to be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    NoEvents,
    TooFewUsers,
    ZeroVariance,
    TooFewEvents,
    TooConcentrated,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEvents => "no_events",
            Self::TooFewUsers => "too_few_users",
            Self::ZeroVariance => "zero_variance",
            Self::TooFewEvents => "too_few_events",
            Self::TooConcentrated => "too_concentrated",
        })
    }
}

/// Below these the normal approximation behind every interval is not to be trusted.
const MIN_USERS: i64 = 100;
const MIN_SUCCESSES_AND_FAILURES: i64 = 5;
const MAX_SHARE_OF_ONE_USER: f64 = 0.1;

/// An arm whose ratio and variance are defined.
#[derive(Clone, Copy, Debug)]
pub struct Arm {
    pub users: f64,
    pub ratio: f64,
    pub variance: f64,
    /// What the variance would be if every event came from another user.
    pub naive_variance: f64,
}

impl Arm {
    /// A mean over users from the sum and the sum of squares of what is no count, such as a duration.
    pub fn of_mean(users: f64, sum: f64, sum_of_squares: f64) -> Result<Self, Reason> {
        if users < 2.0 {
            return Err(if users < 1.0 { Reason::NoEvents } else { Reason::TooFewUsers });
        }
        let mean = sum / users;
        let variance = ((sum_of_squares - sum * mean) / (users - 1.0) / users).max(0.0);
        Ok(Self { users, ratio: mean, variance, naive_variance: variance })
    }
}

impl Sums {
    pub fn ratio(&self) -> Option<f64> {
        (self.d > 0).then(|| self.m as f64 / self.d as f64)
    }

    pub fn arm(&self) -> Result<Arm, Reason> {
        let ratio = self.ratio().ok_or(Reason::NoEvents)?;
        if self.users < 2 {
            return Err(Reason::TooFewUsers);
        }
        Ok(Arm {
            users: self.users as f64,
            ratio,
            variance: self.variance(),
            naive_variance: ratio * (1.0 - ratio) / self.d as f64,
        })
    }

    /// n/(n-1) · Σ(M - R·D)² / (ΣD)², with the sum of squares kept an exact integer as long as it fits.
    fn variance(&self) -> f64 {
        let (n, d) = (self.users as f64, self.d as f64);
        let squares = match self.exact_squares() {
            Some(scaled) => scaled as f64 / (d * d),
            None => {
                let r = self.m as f64 / d;
                self.mm as f64 - 2.0 * r * self.md as f64 + r * r * self.dd as f64
            }
        };
        n / (n - 1.0) * squares / (d * d)
    }

    /// (ΣD)² · Σ(M - R·D)², None beyond 128 bits.
    fn exact_squares(&self) -> Option<i128> {
        let [m, d, mm, dd, md] = [self.m, self.d, self.mm, self.dd, self.md].map(i128::from);
        let squares = mm.checked_mul(d.checked_mul(d)?)?;
        let products = md.checked_mul(m.checked_mul(d)?.checked_mul(2)?)?;
        let rest = dd.checked_mul(m.checked_mul(m)?)?;
        squares.checked_sub(products)?.checked_add(rest)
    }

    /// What speaks against acting on this arm, worst first.
    pub fn doubt(&self) -> Option<Reason> {
        if self.d == 0 {
            return Some(Reason::NoEvents);
        }
        if self.users < MIN_USERS {
            return Some(Reason::TooFewUsers);
        }
        if self.variance() == 0.0 {
            return Some(Reason::ZeroVariance);
        }
        // Of what may happen more than once per unit, only successes can be counted.
        let failures = if self.m > self.d { i64::MAX } else { self.d - self.m };
        if self.m.min(failures) < MIN_SUCCESSES_AND_FAILURES {
            return Some(Reason::TooFewEvents);
        }
        (self.largest_d as f64 > MAX_SHARE_OF_ONE_USER * self.d as f64).then_some(Reason::TooConcentrated)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{close, fixture_arms, sums_of_users, METRICS};
    use super::*;

    #[test]
    fn variance_is_the_delta_method_and_design_effect_shows() {
        let mut rows = 0;
        for metric in METRICS {
            for (sums, expected) in fixture_arms(metric) {
                let arm = sums.arm().unwrap();
                close(arm.ratio, &expected["ratio"]);
                close(arm.variance, &expected["variance_of_ratio_delta_ddof1"]);
                close(arm.naive_variance, &expected["naive_binomial_variance"]);
                close(arm.variance / arm.naive_variance, &expected["design_effect"]);
                rows += 1;
            }
        }
        println!("delta method: {rows} arms");
    }

    #[test]
    fn exact_sums_beat_floats_where_users_hardly_differ() {
        // A million users with 1000 of 2000 each, except one with 1001.
        let users = 1_000_000;
        let sums = Sums {
            users,
            m: 1000 * users + 1,
            d: 2000 * users,
            mm: 1_000_000 * users + 2001,
            dd: 4_000_000 * users,
            md: 2_000_000 * users + 2000,
            largest_d: 2000,
        };
        let n = users as f64;
        let expected = n / (n - 1.0) * (1.0 - 1.0 / n) / (2000.0 * n).powi(2);
        let variance = sums.arm().unwrap().variance;
        assert!((variance / expected - 1.0).abs() < 1e-9, "{variance} {expected}");
    }

    #[test]
    fn sums_beyond_128_bits_fall_back_to_floats() {
        let scale = 1_i64 << 40;
        let sums = Sums { users: 2, m: 3 * scale, d: 6 * scale, mm: i64::MAX, dd: i64::MAX, md: 0, largest_d: 0 };
        assert_eq!(sums.exact_squares(), None);
        assert!(sums.arm().unwrap().variance.is_finite());
    }

    #[test]
    fn what_is_undefined_has_a_reason() {
        let nobody = sums_of_users(&[]);
        assert_eq!(nobody.arm().unwrap_err(), Reason::NoEvents);
        assert_eq!(nobody.ratio(), None);
        let one = sums_of_users(&[(1, 2)]);
        assert_eq!((one.arm().unwrap_err(), one.ratio()), (Reason::TooFewUsers, Some(0.5)));
        assert_eq!(sums_of_users(&[(1, 2); 99]).doubt(), Some(Reason::TooFewUsers));
        assert_eq!(sums_of_users(&[(1, 2); 100]).doubt(), Some(Reason::ZeroVariance));
        let mut users = vec![(0, 2); 99];
        users.push((2, 2));
        assert_eq!(sums_of_users(&users).doubt(), Some(Reason::TooFewEvents));
        users.push((20, 40));
        assert_eq!(sums_of_users(&users).doubt(), Some(Reason::TooConcentrated));
        assert_eq!(sums_of_users(&[[(0, 2); 60], [(1, 2); 60]].concat()).doubt(), None);
        assert_eq!(sums_of_users(&[[(0, 1); 60], [(9, 1); 60]].concat()).doubt(), None);
    }
}

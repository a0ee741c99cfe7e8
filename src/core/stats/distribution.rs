//! Tails and quantiles of the normal, Student's and the beta distribution. statrs supplies the gamma functions and the
//! inverse of erfc, libm erfc (statrs' has eleven digits, not twelve). statrs' incomplete beta function gives up after 140
//! terms and its quantiles stop early: those are here. Tails are survival functions: 1 - cdf has no digits left where decisions are made.

use libm::erfc;
use statrs::function::erf::erfc_inv;
use statrs::function::gamma::ln_gamma;
use std::f64::consts::{PI, SQRT_2};

pub fn normal_density(z: f64) -> f64 {
    (-z * z / 2.0).exp() / (2.0 * PI).sqrt()
}

/// P(Z > z).
pub fn normal_above(z: f64) -> f64 {
    erfc(z / SQRT_2) / 2.0
}

pub fn normal_two_sided(z: f64) -> f64 {
    erfc(z.abs() / SQRT_2)
}

/// z with P(Z > z) = tail, for tails in (0, 1): statrs' inverse and one Newton step.
pub fn normal_quantile_above(tail: f64) -> f64 {
    let z = SQRT_2 * erfc_inv(2.0 * tail);
    z + (normal_above(z) - tail) / normal_density(z)
}

/// P(T > t) with `freedom` degrees of freedom.
pub fn student_above(t: f64, freedom: f64) -> f64 {
    let tail = student_two_sided(t, freedom) / 2.0;
    if t >= 0.0 {
        tail
    } else {
        1.0 - tail
    }
}

pub fn student_two_sided(t: f64, freedom: f64) -> f64 {
    let t2 = t * t;
    if freedom > MANY_DEGREES {
        return normal_two_sided(almost_normal(t2, freedom));
    }
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t2), t2 / (freedom + t2))
}

/// Beyond so many degrees of freedom Hill's expansion has more digits than the continued fraction.
const MANY_DEGREES: f64 = 2e4;

/// The normal deviate that belongs to t² (Hill 1970).
fn almost_normal(t2: f64, freedom: f64) -> f64 {
    let a = freedom - 0.5;
    let b = 48.0 * a * a;
    let w2 = a * (t2 / freedom).ln_1p();
    let correction = (((-0.4 * w2 - 3.3) * w2 - 24.0) * w2 - 85.5) / (0.8 * w2 * w2 + 100.0 + b);
    ((correction + w2 + 3.0) / b + 1.0) * w2.sqrt()
}

/// t with P(T > t) = tail for tails below one half: Newton steps from the normal quantile.
pub fn student_quantile_above(tail: f64, freedom: f64) -> f64 {
    let log_scale = ln_beta(freedom / 2.0, 0.5) + freedom.ln() / 2.0;
    let density = |t: f64| (-(freedom + 1.0) / 2.0 * (t * t / freedom).ln_1p() - log_scale).exp();
    // The tail is convex there: from below, Newton's steps rise to the root and never overshoot.
    let mut t = normal_quantile_above(tail).max(0.0);
    for _ in 0..200 {
        let step = (student_above(t, freedom) - tail) / density(t);
        t += step;
        if step.abs() <= 1e-15 * t.abs() {
            break;
        }
    }
    t
}

/// Regularised incomplete beta function I_x(a, b), given x and 1 - x, of which one may be too small to be told from the other.
pub fn incomplete_beta(a: f64, b: f64, x: f64, rest: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if rest <= 0.0 {
        return 1.0;
    }
    let front = (a * ln_of(x, rest) + b * ln_of(rest, x) - ln_beta(a, b)).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, rest) / b
    }
}

/// ln x, from the smaller of x and 1 - x.
fn ln_of(x: f64, rest: f64) -> f64 {
    match x > 0.5 {
        true => (-rest).ln_1p(),
        false => x.ln(),
    }
}

/// ln B(a, b). With b = 1/2 and many degrees of freedom the difference of two large ln_gamma has no digits left: a series.
pub fn ln_beta(a: f64, b: f64) -> f64 {
    if b == 0.5 && a > 40.0 {
        let r = 1.0 / (a * a);
        let series = (-1.0 / 8.0 + r * (1.0 / 192.0 + r * (-1.0 / 640.0 + r * 17.0 / 14336.0))) / a;
        return PI.ln() / 2.0 - a.ln() / 2.0 - series;
    }
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// The continued fraction of the incomplete beta function (Lentz's method); statrs stops after 140 terms, too few for
/// the hundreds of thousands of users of a large log.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let safe = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / safe(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..100_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / safe(1.0 + term * d);
            c = safe(1.0 + term / c);
            change = c * d;
            value *= change;
        }
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

/// x with I_x(a, b) = p, by bisection: exact enough for an interval's end, and it cannot diverge.
pub fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    bisect(0.0, 1.0, |x| incomplete_beta(a, b, x, 1.0 - x) < p)
}

/// The point where `below` turns from true to false between `low` and `high`.
pub fn bisect(mut low: f64, mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..200 {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        match below(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    low + (high - low) / 2.0
}

#[cfg(test)]
mod tests {
    use super::super::test_data::close_to;
    use super::*;

    // Expected values have been computed with 50 digits.
    include!("distribution_values.rs");

    #[test]
    fn normal_tails_and_quantiles_have_twelve_digits() {
        for (z, tail) in NORMAL {
            close_to(normal_above(z), tail, 1e-12);
            // Tails next to 1 have lost the digits that tell z.
            if (-2.0..30.0).contains(&z) && z != 0.0 {
                close_to(normal_quantile_above(tail), z, 1e-12);
            }
        }
        close_to(normal_two_sided(-1.0), 2.0 * normal_above(1.0), 1e-15);
    }

    #[test]
    fn student_has_twelve_digits_from_one_to_a_hundred_million_degrees() {
        for (freedom, t, tail) in STUDENT {
            close_to(student_above(t, freedom), tail, 1e-12);
            if t > 0.0 {
                close_to(student_quantile_above(tail, freedom), t, 1e-12);
            }
        }
        close_to(student_above(-2.0, 7.0), 1.0 - student_above(2.0, 7.0), 1e-15);
    }

    #[test]
    fn chi_square_and_beta_have_twelve_digits() {
        for (freedom, chi_square, tail) in CHI_SQUARE {
            close_to(statrs::function::gamma::gamma_ur(freedom / 2.0, chi_square / 2.0), tail, 1e-12);
        }
        for (a, b, p, x) in BETA {
            close_to(beta_quantile(p, a, b), x, 1e-12);
        }
        assert_eq!((incomplete_beta(2.0, 3.0, 0.0, 1.0), incomplete_beta(2.0, 3.0, 1.0, 0.0)), (0.0, 1.0));
    }
}

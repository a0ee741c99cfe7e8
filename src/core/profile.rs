//! Sums of unit vectors in fixed point: what is added and taken away again leaves nothing behind, in any order.

use multiversion::multiversion;

use super::trainer::norm;

/// Units of one: a component of a unit vector keeps 32 binary places, more than single precision has.
const ONE: f64 = 4_294_967_296.0;
const BYTES: usize = size_of::<i64>();
/// 1.5 * 2^52: doubles of this size have no binary places, so that whatever is added to it is rounded to a whole number.
const WHOLE: f64 = 6_755_399_441_055_744.0;

/// Adds a vector of any length but zero, scaled to length 1, `sign` (1 or -1) times; a vector without a direction adds nothing.
/// `None` when the sum is of another dimension.
#[must_use]
pub fn add(sum: Vec<u8>, vector: &[f32], sign: i64) -> Option<Vec<u8>> {
    let mut sum = if sum.is_empty() { vec![0; vector.len() * BYTES] } else { sum };
    if sum.len() != vector.len() * BYTES {
        return None;
    }
    let length = norm(vector);
    if length.is_normal() {
        add_unit(sum.as_chunks_mut().0, vector, 1.0 / length, ONE * sign as f64);
    }
    Some(sum)
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn add_unit(sum: &mut [[u8; BYTES]], vector: &[f32], factor: f64, scale: f64) {
    for (place, &v) in sum.iter_mut().zip(vector) {
        // rounded to single precision first: the trainer sees the same unit vectors
        let unit = f64::from((f64::from(v) * factor) as f32);
        let step = (unit * scale + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits());
        *place = u64::from_le_bytes(*place).wrapping_add(step).to_le_bytes();
    }
}

/// The sum of two sums; `None` when their dimensions differ.
#[must_use]
pub fn merge(mut sum: Vec<u8>, other: &[u8]) -> Option<Vec<u8>> {
    if sum.is_empty() {
        return Some(other.to_vec());
    }
    if sum.len() != other.len() {
        return None;
    }
    for (place, other) in sum.as_chunks_mut().0.iter_mut().zip(other.as_chunks().0) {
        *place = i64::from_le_bytes(*place).wrapping_add(i64::from_le_bytes(*other)).to_le_bytes();
    }
    Some(sum)
}

/// The mean that a sum of so many vectors stands for.
#[must_use]
pub fn mean(sum: &[u8], count: i64) -> Vec<f32> {
    let divisor = ONE * count as f64;
    sum.as_chunks().0.iter().map(|&place| (i64::from_le_bytes(place) as f64 / divisor) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> [Vec<f32>; 3] {
        [vec![3.0, 4.0, 0.0], vec![1e-20, -1e-20, 3e-20], vec![1.0, 0.1, -7.0]]
    }

    #[test]
    fn what_is_taken_away_leaves_nothing_in_any_order() {
        let [a, b, c] = vectors();
        let all = [&a, &b, &c].into_iter().fold(Vec::new(), |sum, v| add(sum, v, 1).unwrap());
        let other = [&c, &a, &b].into_iter().fold(Vec::new(), |sum, v| add(sum, v, 1).unwrap());
        assert_eq!(all, other);
        let left = add(add(all, &c, -1).unwrap(), &a, -1).unwrap();
        assert_eq!(left, add(Vec::new(), &b, 1).unwrap());
        assert_eq!(add(left, &b, -1).unwrap(), vec![0; 24]);
    }

    #[test]
    fn parts_merge_into_the_mean() {
        let [a, b, c] = vectors();
        let part = add(add(Vec::new(), &a, 1).unwrap(), &b, 1).unwrap();
        let sum = merge(part, &add(Vec::new(), &c, 1).unwrap()).unwrap();
        let unit = |v: &[f32], i: usize| f64::from(v[i]) / v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        for (i, got) in mean(&sum, 3).into_iter().enumerate() {
            let want = (unit(&a, i) + unit(&b, i) + unit(&c, i)) / 3.0;
            assert!((f64::from(got) - want).abs() < 1e-7, "{got} {want}");
        }
    }

    #[test]
    fn other_dimensions_and_zero_vectors() {
        let sum = add(Vec::new(), &[1.0, 0.0], 1).unwrap();
        assert_eq!(add(sum.clone(), &[1.0], 1), None);
        assert_eq!(merge(sum.clone(), &[0; 8]), None);
        assert_eq!(merge(Vec::new(), &sum), Some(sum.clone()));
        assert_eq!(add(sum.clone(), &[0.0, 0.0], 1), Some(sum));
    }
}

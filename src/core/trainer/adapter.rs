//! What training leaves behind and how it serves: one matrix, one offset, and a weight for what the user skipped.

use sha2::{Digest, Sha256};

use super::error::Error;
use super::progress::Watch;
use super::vectors::{add_scaled, dot, norm, normalise, product_in_blocks, Matrix, Rows};

/// Turns a user's profile into the vector to search with. Stored vectors are never touched.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub dim: usize,
    /// Row-major, `dim` x `dim`.
    pub matrix: Vec<f32>,
    pub bias: Vec<f32>,
    /// Weight of the user's own negative direction; 0 = off.
    pub gamma: f32,
    pub score_scale: f64,
    pub score_offset: f64,
}

impl Adapter {
    /// The adapter that changes nothing: the plain mean of what was saved.
    pub fn identity(dim: usize) -> Self {
        let mut matrix = vec![0.0; dim * dim];
        (0..dim).for_each(|i| matrix[i * dim + i] = 1.0);
        Self { matrix, bias: vec![0.0; dim], ..Self::without_weights(dim) }
    }

    pub(super) fn without_weights(dim: usize) -> Self {
        Self { dim, matrix: Vec::new(), bias: Vec::new(), gamma: 0.0, score_scale: 1.0, score_offset: 0.0 }
    }

    /// The unit vector to search with: u(A q + o) + gamma u(q - s), where q and s are the means of the user's saved
    /// and skipped unit vectors (s only when at least five were skipped). Panics when their dimension is
    /// another.
    pub fn query(&self, saved_mean: &[f32], skipped_mean: Option<&[f32]>) -> Vec<f32> {
        let mut query = self.project(saved_mean);
        self.add_negative(&mut query, saved_mean, skipped_mean);
        query
    }

    /// A single vector in the adapter's eyes, of length 1; the identity hands back the same bytes.
    pub fn adapt(&self, vector: &[f32]) -> Vec<f32> {
        if self.is_identity() {
            return vector.to_vec();
        }
        let mut unit = vector.to_vec();
        normalise(&mut unit);
        self.project(&unit)
    }

    /// Relevance between 0 and 1 of a cosine with the query vector.
    pub fn score(&self, cosine: f64) -> f64 {
        1.0 / (1.0 + (-(self.score_scale * cosine + self.score_offset)).exp())
    }

    /// SHA-256 over matrix, bias and gamma.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for value in self.matrix.iter().chain(&self.bias).chain([&self.gamma]) {
            digest.update(value.to_le_bytes());
        }
        digest.finalize().into()
    }

    pub(super) fn is_finite(&self) -> bool {
        self.matrix.iter().chain(&self.bias).all(|v| v.is_finite())
    }

    pub fn is_identity(&self) -> bool {
        let one_on_diagonal = |i: usize| f32::from(u8::from(i.is_multiple_of(self.dim + 1)));
        self.bias.iter().all(|&b| b == 0.0) && self.matrix.iter().enumerate().all(|(i, &a)| a == one_on_diagonal(i))
    }

    /// `query` for many users at once; a user without a skipped mean has a row of zeros.
    pub(super) fn queries(
        &self,
        saved_means: &Rows,
        skipped_means: &Rows,
        watch: &mut Watch<'_>,
    ) -> Result<Rows, Error> {
        let mut out = saved_means.clone();
        if !self.is_identity() {
            let matrix = Matrix::new(&self.matrix, self.dim, self.dim).transposed();
            product_in_blocks(saved_means.as_matrix(), matrix, &mut out.data, watch)?;
        }
        for index in 0..out.len() {
            let (query, skipped) = (out.row_mut(index), skipped_means.row(index));
            add_scaled(query, 1.0, &self.bias);
            normalise(query);
            let given = skipped.iter().any(|&v| v != 0.0);
            self.add_negative(query, saved_means.row(index), given.then_some(skipped));
        }
        Ok(out)
    }

    fn project(&self, vector: &[f32]) -> Vec<f32> {
        assert_eq!(vector.len(), self.dim, "a vector of another dimension");
        let rows = self.matrix.chunks_exact(self.dim);
        let mut out: Vec<f32> = rows.zip(&self.bias).map(|(row, b)| dot(row, vector) + b).collect();
        normalise(&mut out);
        out
    }

    fn add_negative(&self, query: &mut [f32], saved_mean: &[f32], skipped_mean: Option<&[f32]>) {
        let Some(skipped_mean) = skipped_mean.filter(|_| self.gamma != 0.0) else { return };
        let mut away: Vec<f32> = saved_mean.iter().zip(skipped_mean).map(|(q, s)| q - s).collect();
        normalise(&mut away);
        let before = query.to_vec();
        add_scaled(query, self.gamma, &away);
        normalise(query);
        if norm(query) == 0.0 {
            query.copy_from_slice(&before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::*;

    fn adapter() -> Adapter {
        let matrix = vec![1.0, 0.5, 0.0, 0.0, 2.0, 0.0, 0.3, 0.0, 1.0];
        Adapter { matrix, bias: vec![0.1, 0.0, -0.2], gamma: 1.0, ..Adapter::identity(3) }
    }

    #[test]
    fn identity_changes_no_byte() {
        let identity = Adapter::identity(3);
        let vector = [0.1f32, -0.7, 1e-8];
        assert_eq!(identity.adapt(&vector), vector);
        let mut unit = vector;
        normalise(&mut unit);
        assert_eq!(identity.query(&vector, Some(&[1.0, 0.0, 0.0])), unit);
    }

    #[test]
    fn query_follows_the_formula() {
        let (q, s) = ([0.6f32, 0.2, 0.1], [0.1f32, 0.5, 0.1]);
        let mut expected = [0.6 + 0.1 + 0.1, 0.4, 0.18 + 0.1 - 0.2];
        normalise(&mut expected);
        assert_eq!(adapter().query(&q, None), expected);
        let mut away = [0.5f32, -0.3, 0.0];
        normalise(&mut away);
        add_scaled(&mut expected, 1.0, &away);
        normalise(&mut expected);
        for (got, want) in adapter().query(&q, Some(&s)).iter().zip(expected) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn many_queries_agree_with_single_ones() {
        let saved = Rows { dim: 3, data: vec![0.6, 0.2, 0.1, 0.0, 0.4, 0.4] };
        let skipped = Rows { dim: 3, data: vec![0.0, 0.0, 0.0, 0.1, 0.5, 0.1] };
        let together = adapter().queries(&saved, &skipped, &mut Watch::new(&mut Unobserved, None)).unwrap();
        for (index, skipped) in [None, Some(skipped.row(1))].into_iter().enumerate() {
            for (a, b) in together.row(index).iter().zip(adapter().query(saved.row(index), skipped)) {
                assert!((a - b).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn scores_are_probabilities_and_digests_tell_adapters_apart() {
        let scored = Adapter { score_scale: 5.0, score_offset: -2.0, ..adapter() };
        assert!(scored.score(-1.0) > 0.0 && scored.score(-1.0) < scored.score(1.0) && scored.score(1.0) < 1.0);
        assert_eq!(adapter().digest(), scored.digest());
        assert_ne!(adapter().digest(), Adapter { gamma: 0.5, ..adapter() }.digest());
    }
}

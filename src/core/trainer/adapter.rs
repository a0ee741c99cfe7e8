//! What training leaves behind and how it serves: one matrix, one offset, and a weight for what the user skipped.

use std::collections::BTreeMap;
use std::rc::Rc;

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
    /// A direction of each user's own, where users are few.
    pub heads: Heads,
    /// Another matrix and offset for typed questions; `None` = they stay as they are.
    pub typed: Option<Pair>,
}

/// By name of the user.
pub type Heads = Rc<BTreeMap<String, Vec<f32>>>;

/// A matrix, row-major, and an offset.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub matrix: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Adapter {
    /// The adapter that changes nothing: the plain mean of what was saved.
    pub fn identity(dim: usize) -> Self {
        let mut matrix = vec![0.0; dim * dim];
        (0..dim).for_each(|i| matrix[i * dim + i] = 1.0);
        Self { matrix, bias: vec![0.0; dim], ..Self::without_weights(dim) }
    }

    pub(super) fn without_weights(dim: usize) -> Self {
        let (heads, typed) = (Heads::default(), None);
        Self {
            dim,
            matrix: Vec::new(),
            bias: Vec::new(),
            gamma: 0.0,
            score_scale: 1.0,
            score_offset: 0.0,
            heads,
            typed,
        }
    }

    /// The unit vector to search with: u(A q + o) + gamma u(q - s), where q and s are the means of the user's saved
    /// and skipped unit vectors (s only when at least five were skipped). Panics when their dimension is
    /// another.
    pub fn query(&self, saved_mean: &[f32], skipped_mean: Option<&[f32]>) -> Vec<f32> {
        let mut query = self.project(saved_mean);
        self.add_negative(&mut query, saved_mean, skipped_mean);
        query
    }

    /// The vector of a typed question; without weights for them the same bytes.
    pub fn adapt_typed(&self, vector: &[f32]) -> Vec<f32> {
        let Some(Pair { matrix, bias }) = &self.typed else { return vector.to_vec() };
        let mut unit = vector.to_vec();
        normalise(&mut unit);
        project(matrix, bias, &unit)
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

    /// SHA-256 over all weights.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let typed = self.typed.iter().flat_map(|typed| typed.matrix.iter().chain(&typed.bias));
        for value in self.matrix.iter().chain(&self.bias).chain([&self.gamma]).chain(typed) {
            digest.update(value.to_le_bytes());
        }
        for (user, head) in &*self.heads {
            digest.update((user.len() as u64).to_le_bytes());
            digest.update(user.as_bytes());
            head.iter().for_each(|value| digest.update(value.to_le_bytes()));
        }
        digest.finalize().into()
    }

    pub(super) fn is_finite(&self) -> bool {
        let heads = self.heads.values().flatten();
        self.matrix.iter().chain(&self.bias).chain(heads).all(|v| v.is_finite())
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
        users: &[String],
        watch: &mut Watch<'_>,
    ) -> Result<Rows, Error> {
        let mut out = saved_means.clone();
        if !self.is_identity() {
            let matrix = Matrix::new(&self.matrix, self.dim, self.dim).transposed();
            product_in_blocks(saved_means.as_matrix(), matrix, &mut out.data, watch)?;
        }
        for (index, user) in users.iter().enumerate() {
            let (query, skipped) = (out.row_mut(index), skipped_means.row(index));
            add_scaled(query, 1.0, &self.bias);
            normalise(query);
            let given = skipped.iter().any(|&v| v != 0.0);
            self.add_negative(query, saved_means.row(index), given.then_some(skipped));
            if let Some(head) = self.heads.get(user) {
                lean(query, head);
            }
        }
        Ok(out)
    }

    fn project(&self, vector: &[f32]) -> Vec<f32> {
        assert_eq!(vector.len(), self.dim, "a vector of another dimension");
        project(&self.matrix, &self.bias, vector)
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

/// Makes a user's own direction half of a query vector.
pub fn lean(query: &mut [f32], head: &[f32]) {
    let before = query.to_vec();
    add_scaled(query, 1.0, head);
    normalise(query);
    if norm(query) == 0.0 {
        query.copy_from_slice(&before);
    }
}

fn project(matrix: &[f32], bias: &[f32], vector: &[f32]) -> Vec<f32> {
    let rows = matrix.chunks_exact(vector.len());
    let mut out: Vec<f32> = rows.zip(bias).map(|(row, b)| dot(row, vector) + b).collect();
    normalise(&mut out);
    out
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
    fn a_user_s_own_direction_and_typed_questions() {
        let leaning = |mut query: [f32; 3]| {
            lean(&mut query, &[0.0, 0.0, 1.0]);
            query
        };
        assert_eq!(leaning([1.0, 0.0, 0.0]), [0.5f32.sqrt(), 0.0, 0.5f32.sqrt()]);
        assert_eq!(leaning([0.0, 0.0, -1.0]), [0.0, 0.0, -1.0]);
        let typed = Some(Pair { matrix: vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], bias: vec![0.0; 3] });
        let adapter = Adapter { typed, ..Adapter::identity(3) };
        assert_eq!(adapter.adapt_typed(&[3.0, 0.0, 0.0]), [0.0, 1.0, 0.0]);
        assert_eq!(Adapter::identity(3).adapt_typed(&[3.0, 0.0, 0.0]), [3.0, 0.0, 0.0]);
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
        let names = ["ann".to_owned(), "bob".to_owned()];
        let heads = Heads::new([("bob".to_owned(), vec![0.0, 0.0, 1.0])].into());
        let adapter = Adapter { heads, ..adapter() };
        let together = adapter.queries(&saved, &skipped, &names, &mut Watch::new(&mut Unobserved, None)).unwrap();
        for (index, skipped) in [None, Some(skipped.row(1))].into_iter().enumerate() {
            let mut query = adapter.query(saved.row(index), skipped);
            adapter.heads.get(&names[index]).into_iter().for_each(|head| lean(&mut query, head));
            for (a, b) in together.row(index).iter().zip(query) {
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
        let heads = Heads::new([("bob".to_owned(), vec![0.0, 0.0, 1.0])].into());
        assert_ne!(adapter().digest(), Adapter { heads, ..adapter() }.digest());
        let typed = Some(Pair { matrix: vec![1.0; 9], bias: vec![0.0; 3] });
        assert_ne!(adapter().digest(), Adapter { typed, ..adapter() }.digest());
    }
}

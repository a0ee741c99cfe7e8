//! What is learned on top of a space: one matrix, full or of low rank, that starts at no effect.

use rand::RngExt;

use super::crew::Crew;
use super::error::Error;
use super::rng;
use super::vectors::{norm, product, product_within, Matrix, TILE};

/// Dimensions up to which the residual is a full matrix; beyond, a product of two thin ones.
pub(super) const MAX_FULL: usize = 1024;
pub(super) const RANK: usize = 32;

/// D of the score x . (q + D q), as parameters that start at zero effect.
#[derive(Clone)]
pub(super) struct Residual {
    pub dim: usize,
    /// 0 = D' as it is, else D = U V' with U' and then V in `parameters`. Transposed, so that the many products of a
    /// training read them in the order that they lie in memory.
    pub rank: usize,
    pub parameters: Vec<f32>,
}

impl Residual {
    pub fn new(dim: usize, seed: i64) -> Self {
        if dim <= MAX_FULL {
            Self::full(dim)
        } else {
            Self::thin(dim, seed)
        }
    }

    pub fn full(dim: usize) -> Self {
        Self { dim, rank: 0, parameters: vec![0.0; dim * dim] }
    }

    /// U starts at zero, V at random: no effect, and a gradient that is not zero.
    pub fn thin(dim: usize, seed: i64) -> Self {
        let mut parameters = vec![0.0; 2 * dim * RANK];
        let (mut rng, scale) = (rng::stream(seed, "low rank"), (12.0 / dim as f64).sqrt());
        for v in &mut parameters[dim * RANK..] {
            *v = ((rng.random::<f64>() - 0.5) * scale) as f32;
        }
        Self { dim, rank: RANK, parameters }
    }

    /// U' and V of the low-rank form.
    fn factors(&self) -> (Matrix<'_>, Matrix<'_>) {
        let (u, v) = self.parameters.split_at(self.dim * self.rank);
        (Matrix::new(u, self.rank, self.dim), Matrix::new(v, self.dim, self.rank))
    }

    /// z = q + D q for every row; `thin`, of `rank` numbers a row, keeps V'q for the gradient.
    pub fn apply(&self, q: &[f32], thin: &mut [f32], z: &mut [f32]) {
        let rows = q.len() / self.dim;
        let anchors = Matrix::new(q, rows, self.dim);
        z.copy_from_slice(q);
        if self.rank == 0 {
            return product(1.0, anchors, Matrix::new(&self.parameters, self.dim, self.dim), 1.0, z);
        }
        let (u, v) = self.factors();
        product(1.0, anchors, v, 0.0, thin);
        product(1.0, Matrix::new(thin, rows, self.rank), u, 1.0, z);
    }

    /// Gradient of the loss with respect to the parameters, from its gradient with respect to every z. `thin` is what
    /// `apply` left there; used up.
    pub fn gradient(&self, q: &[f32], thin: &mut [f32], gz: &[f32], out: &mut [f32], crew: Crew) -> Result<(), Error> {
        let rows = q.len() / self.dim;
        let (anchors, pull) = (Matrix::new(q, rows, self.dim), Matrix::new(gz, rows, self.dim));
        if self.rank == 0 {
            return outer(anchors, pull, out, crew);
        }
        let (u, _) = self.factors();
        let (out_u, out_v) = out.split_at_mut(self.dim * self.rank);
        product(1.0, Matrix::new(thin, rows, self.rank).transposed(), pull, 0.0, out_u);
        product(1.0, pull, u.transposed(), 0.0, thin);
        outer(anchors, Matrix::new(thin, rows, self.rank), out_v, crew)
    }

    /// Length of D, without making it: |U V'|^2 = tr(U'U V'V).
    pub fn length(&self) -> f64 {
        if self.rank == 0 {
            return norm(&self.parameters);
        }
        let (u, v) = self.factors();
        let (mut uu, mut vv) = (vec![0.0; self.rank * self.rank], vec![0.0; self.rank * self.rank]);
        product(1.0, u, u.transposed(), 0.0, &mut uu);
        product(1.0, v.transposed(), v, 0.0, &mut vv);
        uu.iter().zip(&vv).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>().max(0.0).sqrt()
    }

    /// D itself.
    pub fn dense(&self) -> Vec<f32> {
        if self.rank == 0 {
            return transposed(&self.parameters, self.dim);
        }
        let (u, v) = self.factors();
        let mut dense = vec![0.0; self.dim * self.dim];
        product(1.0, u.transposed(), v.transposed(), 0.0, &mut dense);
        dense
    }
}

/// out = a' b, each thread some of its rows.
fn outer(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], crew: Crew) -> Result<(), Error> {
    let (a, columns) = (a.transposed(), b.columns());
    let share = crew.share(a.rows(), TILE);
    let parts = out.chunks_mut(share * columns).enumerate().collect();
    crew.each(parts, |(index, part)| {
        let rows = part.len() / columns;
        product_within(1.0, a.some_rows(index * share, rows), b, 0.0, (part, columns));
    })
}

pub(super) fn transposed(matrix: &[f32], dim: usize) -> Vec<f32> {
    let mut out = vec![0.0; matrix.len()];
    for (i, row) in matrix.chunks_exact(dim).enumerate() {
        row.iter().enumerate().for_each(|(j, &value)| out[j * dim + i] = value);
    }
    out
}

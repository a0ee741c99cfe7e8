//! The closed form: spaces in which vectors are centred and their shrunk covariance is undone.

use rand::seq::SliceRandom;

use super::error::Error;
use super::progress::Watch;
use super::rng;
use super::vectors::{product, Matrix, Rows, BLOCK};

/// Mean and covariance of a sample of rows.
pub(super) struct Moments {
    pub rows: usize,
    pub mean: Vec<f64>,
    /// d x d, divided by the number of rows.
    pub covariance: Vec<f64>,
}

impl Moments {
    /// Over at most `limit` rows, drawn by the seed.
    pub fn of(rows: &Rows, limit: usize, seed: u64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let mut chosen: Vec<u32> = (0..rows.len() as u32).collect();
        if chosen.len() > limit {
            chosen = chosen.partial_shuffle(&mut rng::stream(seed, "calibration"), limit).0.to_vec();
            chosen.sort_unstable();
        }
        let (dim, count) = (rows.dim, chosen.len() as f64);
        let mut mean = vec![0.0f64; dim];
        for &index in &chosen {
            for (m, &v) in mean.iter_mut().zip(rows.row(index as usize)) {
                *m += f64::from(v) / count;
            }
        }
        let mut covariance = vec![0.0f64; dim * dim];
        let mut products = vec![0.0f32; dim * dim];
        for block in chosen.chunks(BLOCK) {
            watch.check()?;
            let mut centred = rows.gather(block.iter().copied());
            centre(&mut centred.data, &mean);
            product(1.0, centred.as_matrix().transposed(), centred.as_matrix(), 0.0, &mut products);
            for (c, &p) in covariance.iter_mut().zip(&products) {
                *c += f64::from(p) / count;
            }
        }
        Ok(Self { rows: chosen.len(), mean, covariance })
    }

    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    pub fn variance(&self) -> f64 {
        (0..self.dim()).map(|i| self.covariance[i * self.dim() + i]).sum()
    }

    /// How much the covariance is to be shrunk with so many rows: few rows know little of it.
    pub fn default_shrinkage(&self) -> f64 {
        match self.rows {
            0..=99 => 1.0,
            100..=999 => 0.9,
            _ => 0.7,
        }
    }
}

fn centre(data: &mut [f32], mean: &[f64]) {
    for row in data.chunks_exact_mut(mean.len()) {
        for (v, m) in row.iter_mut().zip(mean) {
            *v = (f64::from(*v) - m) as f32;
        }
    }
}

/// A linear change of space: x -> W (x - mean); the raw space leaves vectors as they are.
pub(super) struct Space {
    dim: usize,
    calibration: Option<Calibration>,
}

struct Calibration {
    mean: Vec<f64>,
    /// W, lower triangular, row-major; the mean squared length of W (x - mean) is 1.
    whitening: Vec<f32>,
}

impl Space {
    pub fn raw(dim: usize) -> Self {
        Self { dim, calibration: None }
    }

    /// C = (1 - s) covariance + s trace / d I, and W with W'W = C^-1 up to a factor.
    pub fn shrunk(moments: &Moments, shrinkage: f64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let dim = moments.dim();
        let ridge = shrinkage * moments.variance() / dim as f64;
        let mut c: Vec<f64> = moments.covariance.iter().map(|v| (1.0 - shrinkage) * v).collect();
        (0..dim).for_each(|i| c[i * dim + i] += ridge);
        cholesky(&mut c, dim, watch)?;
        let inverse = invert_lower(&c, dim, watch)?;
        // covariance = (C - ridge I) / (1 - s), so the mean squared length is a trace that needs no product
        let inverse_trace: f64 = inverse.iter().map(|v| v * v).sum();
        let length = match shrinkage {
            1.0 => dim as f64,
            s => (dim as f64 - ridge * inverse_trace) / (1.0 - s),
        };
        let factor = 1.0 / length.max(f64::MIN_POSITIVE).sqrt();
        let whitening = inverse.iter().map(|v| (v * factor) as f32).collect();
        Ok(Self { dim, calibration: Some(Calibration { mean: moments.mean.clone(), whitening }) })
    }

    /// The rows in this space; `None` for the raw space, where they are what they were.
    pub fn transform(&self, rows: &Rows, watch: &mut Watch<'_>) -> Result<Option<Rows>, Error> {
        let Some(Calibration { mean, whitening }) = &self.calibration else { return Ok(None) };
        let mut out = Rows::zeros(rows.len(), rows.dim);
        let (size, w) = (BLOCK * self.dim, Matrix::new(whitening, self.dim, self.dim).transposed());
        for (input, output) in rows.data.chunks(size).zip(out.data.chunks_mut(size)) {
            watch.check()?;
            let mut centred = input.to_vec();
            centre(&mut centred, mean);
            product(1.0, Matrix::new(&centred, centred.len() / self.dim, self.dim), w, 0.0, output);
        }
        Ok(Some(out))
    }

    /// The query side as one matrix and one offset in the raw space: A = W' (I + D) W with trace d, o = -A mean.
    pub fn fold(&self, residual: Option<&[f32]>) -> Folded {
        let dim = self.dim;
        let mut core = residual.map_or_else(|| vec![0.0; dim * dim], <[f32]>::to_vec);
        (0..dim).for_each(|i| core[i * dim + i] += 1.0);
        let mut matrix = match &self.calibration {
            None => core,
            Some(Calibration { whitening, .. }) => {
                let w = Matrix::new(whitening, dim, dim);
                let mut right = vec![0.0; dim * dim];
                product(1.0, Matrix::new(&core, dim, dim), w, 0.0, &mut right);
                product(1.0, w.transposed(), Matrix::new(&right, dim, dim), 0.0, &mut core);
                core
            }
        };
        let trace: f64 = (0..dim).map(|i| f64::from(matrix[i * dim + i])).sum();
        if trace > 0.0 && trace != dim as f64 {
            let factor = dim as f64 / trace;
            matrix.iter_mut().for_each(|a| *a = (f64::from(*a) * factor) as f32);
        }
        let bias = match &self.calibration {
            None => vec![0.0; dim],
            Some(Calibration { mean, .. }) => matrix
                .chunks_exact(dim)
                .map(|row| -row.iter().zip(mean).map(|(&a, m)| f64::from(a) * m).sum::<f64>() as f32)
                .collect(),
        };
        Folded { matrix, bias }
    }
}

/// A model of the query side: q' = matrix q + bias.
pub(super) struct Folded {
    pub matrix: Vec<f32>,
    pub bias: Vec<f32>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0; LANES];
    let (a_wide, a_rest) = a.as_chunks::<LANES>();
    let (b_wide, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_wide.iter().zip(b_wide) {
        (0..LANES).for_each(|lane| lanes[lane] += x[lane] * y[lane]);
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// C = L L', row by row, in place; what stands above the diagonal is not read and not changed.
fn cholesky(c: &mut [f64], dim: usize, watch: &mut Watch<'_>) -> Result<(), Error> {
    for i in 0..dim {
        watch.check()?;
        let (above, row) = c.split_at_mut(i * dim);
        for j in 0..i {
            let other = &above[j * dim..j * dim + j + 1];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let square = row[i] - dot(&row[..i], &row[..i]);
        if square.is_nan() || square <= 0.0 {
            return Err(Error::Input("the vectors do not differ: nothing can be calibrated".into()));
        }
        row[i] = square.sqrt();
    }
    Ok(())
}

/// L^-1 of a lower triangular L.
fn invert_lower(l: &[f64], dim: usize, watch: &mut Watch<'_>) -> Result<Vec<f64>, Error> {
    // Row j of `columns` is column j of the inverse: both operands of each sum lie in one piece.
    let mut columns = vec![0.0; dim * dim];
    for j in 0..dim {
        watch.check()?;
        let column = &mut columns[j * dim..(j + 1) * dim];
        column[j] = 1.0 / l[j * dim + j];
        for i in j + 1..dim {
            column[i] = -dot(&l[i * dim + j..i * dim + i], &column[j..i]) / l[i * dim + i];
        }
    }
    let mut inverse = vec![0.0; dim * dim];
    for (i, row) in inverse.chunks_exact_mut(dim).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, v)| *v = columns[j * dim + i]);
    }
    Ok(inverse)
}

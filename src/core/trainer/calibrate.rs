//! The closed form: spaces in which vectors are centred and their shrunk covariance is undone.

use rand::seq::SliceRandom;

use super::crew::Crew;
use super::error::Error;
use super::progress::Watch;
use super::residual::transposed;
use super::rng;
use super::store::Store;
use super::vectors::{add_to, product_f64, product_in_blocks, product_within, subtract, Matrix, BLOCK, TILE};

/// Of unit vectors, summed over all dimensions: what is below is rounding.
const MIN_VARIANCE: f64 = 1e-9;
/// Rows or columns of a triangular matrix that are computed together: what stands across the diagonal is left out.
const BAND: usize = 128;

/// Mean and covariance of a sample of rows.
pub(super) struct Moments {
    pub rows: usize,
    pub mean: Vec<f64>,
    /// d x d, divided by the number of rows.
    pub covariance: Vec<f64>,
}

impl Moments {
    /// Over at most `limit` rows, drawn by the seed.
    pub fn of(rows: &Store, limit: usize, seed: i64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let mut chosen: Vec<u32> = (0..rows.len() as u32).collect();
        if chosen.len() > limit {
            chosen = chosen.partial_shuffle(&mut rng::stream(seed, "calibration"), limit).0.to_vec();
            chosen.sort_unstable();
        }
        let (dim, count) = (rows.dim(), chosen.len() as f64);
        let mut mean = vec![0.0f64; dim];
        for block in chosen.chunks(BLOCK) {
            watch.check()?;
            let near = rows.near(block.iter().copied(), watch)?;
            block.iter().for_each(|&index| add_to(&mut mean, near.row(index)));
        }
        mean.iter_mut().for_each(|m| *m /= count);
        let mut moments = Self { rows: chosen.len(), mean, covariance: vec![0.0; dim * dim] };
        let mut products = vec![0.0f32; dim * dim];
        for block in chosen.chunks(BLOCK) {
            watch.check()?;
            let mut centred = rows.gather(block, watch)?;
            centre(&mut centred.data, &moments.mean);
            add_squares(centred.as_matrix(), &mut products, &mut moments.covariance, watch.crew)?;
        }
        moments.covariance.iter_mut().for_each(|c| *c /= count);
        for i in 0..dim {
            (i + 1..dim).for_each(|j| moments.covariance[i * dim + j] = moments.covariance[j * dim + i]);
        }
        Ok(moments)
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

/// sums += x'x up to the diagonal, in bands of rows, by way of `products`.
pub(super) fn add_squares(x: Matrix<'_>, products: &mut [f32], sums: &mut [f64], crew: Crew) -> Result<(), Error> {
    let dim = x.columns();
    let bands = products.chunks_mut(BAND * dim).zip(sums.chunks_mut(BAND * dim)).enumerate();
    crew.each(bands.collect(), |(index, (products, sums))| {
        let (first, count) = (index * BAND, products.len() / dim);
        let (band, known) = (x.some_columns(first, count).transposed(), first + count);
        product_within(1.0, band, x.some_columns(0, known), 0.0, (products, dim));
        for (sums, products) in sums.chunks_exact_mut(dim).zip(products.chunks_exact(dim)) {
            add_to(&mut sums[..known], products);
        }
    })
}

pub(super) fn centre(data: &mut [f32], mean: &[f64]) {
    data.chunks_exact_mut(mean.len()).for_each(|row| subtract(row, mean));
}

/// A linear change of space: x -> W (x - mean); the raw space leaves vectors as they are.
pub(super) struct Space {
    dim: usize,
    calibration: Option<Calibration>,
}

struct Calibration {
    mean: Vec<f64>,
    /// W', upper triangular, row-major; the mean squared length of W (x - mean) is 1.
    whitening: Vec<f32>,
}

impl Space {
    pub fn raw(dim: usize) -> Self {
        Self { dim, calibration: None }
    }

    /// C = (1 - s) covariance + s trace / d I, and W with W'W = C^-1 up to a factor.
    pub fn shrunk(moments: &Moments, shrinkage: f64, watch: &mut Watch<'_>) -> Result<Self, Error> {
        let dim = moments.dim();
        if moments.variance() < MIN_VARIANCE {
            return Err(no_variance());
        }
        let ridge = shrinkage * moments.variance() / dim as f64;
        let mut c: Vec<f64> = moments.covariance.iter().map(|v| (1.0 - shrinkage) * v).collect();
        (0..dim).for_each(|i| c[i * dim + i] += ridge);
        let inverse = inverse_factor(c, dim, watch)?;
        // covariance = (C - ridge I) / (1 - s), so the mean squared length is a trace that needs no product
        let inverse_trace: f64 = inverse.iter().map(|v| v * v).sum();
        let length = match shrinkage {
            1.0 => dim as f64,
            s => (dim as f64 - ridge * inverse_trace) / (1.0 - s),
        };
        let factor = 1.0 / length.max(f64::MIN_POSITIVE).sqrt();
        let whitening: Vec<f32> = inverse.iter().map(|v| (v * factor) as f32).collect();
        let whitening = transposed(&whitening, dim);
        Ok(Self { dim, calibration: Some(Calibration { mean: moments.mean.clone(), whitening }) })
    }

    /// The rows in this space; `None` for the raw space, where they are what they were.
    pub fn transform(&self, rows: &Store, watch: &mut Watch<'_>) -> Result<Option<Store>, Error> {
        let Some(calibration) = &self.calibration else { return Ok(None) };
        let dim = self.dim;
        let moved = rows.map(dim, watch, |input, output, watch| {
            watch.check()?;
            let share = watch.crew.share(input.len() / dim, TILE) * dim;
            let parts = input.chunks(share).zip(output.chunks_mut(share)).collect();
            watch.crew.each(parts, |(input, output)| calibration.apply(input, output))
        });
        moved.map(Some)
    }

    /// The query side as one matrix and one offset in the raw space: A = W' (I + D) W with trace d, o = -A mean.
    pub fn fold(&self, residual: Option<&[f32]>, watch: &mut Watch<'_>) -> Result<Folded, Error> {
        let dim = self.dim;
        let mut core = residual.map_or_else(|| vec![0.0; dim * dim], <[f32]>::to_vec);
        (0..dim).for_each(|i| core[i * dim + i] += 1.0);
        let mut matrix = match &self.calibration {
            None => core,
            Some(Calibration { whitening, .. }) => {
                let w = Matrix::new(whitening, dim, dim).transposed();
                let mut right = vec![0.0; dim * dim];
                product_in_blocks(Matrix::new(&core, dim, dim), w, &mut right, watch)?;
                product_in_blocks(w.transposed(), Matrix::new(&right, dim, dim), &mut core, watch)?;
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
        Ok(Folded { matrix, bias })
    }
}

impl Calibration {
    /// W (x - mean) of every row; columns in bands, each of which needs nothing of what stands below it in W'.
    fn apply(&self, input: &[f32], output: &mut [f32]) {
        let dim = self.mean.len();
        let mut centred = input.to_vec();
        centre(&mut centred, &self.mean);
        let (x, w) = (Matrix::new(&centred, centred.len() / dim, dim), Matrix::new(&self.whitening, dim, dim));
        for first in (0..dim).step_by(BAND) {
            let count = BAND.min(dim - first);
            let known = first + count;
            let band = w.some_rows(0, known).some_columns(first, count);
            product_within(1.0, x.some_columns(0, known), band, 0.0, (&mut output[first..], dim));
        }
    }
}

/// A model of the query side: q' = matrix q + bias.
pub(super) struct Folded {
    pub matrix: Vec<f32>,
    pub bias: Vec<f32>,
}

fn no_variance() -> Error {
    Error::Input("the vectors do not differ: nothing can be calibrated".into())
}

/// Below this a matrix is factored row by row, above by its halves.
const SMALL: usize = 64;

/// L^-1 of C = L L', lower triangular; what stands above the diagonal of C is not read.
pub(super) fn inverse_factor(mut c: Vec<f64>, dim: usize, watch: &mut Watch<'_>) -> Result<Vec<f64>, Error> {
    let mut inverse = vec![0.0; dim * dim];
    factor(&mut c, &mut inverse, dim, dim, watch)?;
    Ok(inverse)
}

/// The same for the first `size` rows and columns of matrices with rows of `stride`; `c` is used up. By halves:
/// with C = [A; B D], L^-1 = [X; -Z Y X, Z] where X is that of A, Y = B X' and Z that of D - Y Y'.
fn factor(c: &mut [f64], inverse: &mut [f64], size: usize, stride: usize, watch: &mut Watch<'_>) -> Result<(), Error> {
    watch.check()?;
    if size <= SMALL {
        return factor_small(c, inverse, size, stride);
    }
    let (head, tail) = (size / 2, size - size / 2);
    let below = head * stride;
    factor(c, inverse, head, stride, watch)?;
    let mut y = vec![0.0; tail * head];
    let (rows, columns) = ((stride, 1), (1, stride));
    product_f64((tail, head, head), 1.0, (&c[below..], rows), (inverse, columns), 0.0, (&mut y, head));
    watch.check()?;
    let d = (&mut c[below + head..], stride);
    product_f64((tail, head, tail), -1.0, (&y, (head, 1)), (&y, (1, head)), 1.0, d);
    factor(&mut c[below + head..], &mut inverse[below + head..], tail, stride, watch)?;
    let mut yx = vec![0.0; tail * head];
    product_f64((tail, head, head), 1.0, (&y, (head, 1)), (inverse, rows), 0.0, (&mut yx, head));
    watch.check()?;
    let (_, lower) = inverse.split_at_mut(below);
    let z: Vec<f64> = lower.chunks(stride).take(tail).flat_map(|row| row[head..head + tail].to_vec()).collect();
    product_f64((tail, tail, head), -1.0, (&z, (tail, 1)), (&yx, (head, 1)), 0.0, (lower, stride));
    Ok(())
}

fn factor_small(c: &mut [f64], inverse: &mut [f64], size: usize, stride: usize) -> Result<(), Error> {
    for i in 0..size {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| c[i * stride + k] * c[j * stride + k]).sum();
            let left = c[i * stride + j] - known;
            if j < i {
                c[i * stride + j] = left / c[j * stride + j];
            } else if left > 0.0 {
                c[i * stride + i] = left.sqrt();
            } else {
                return Err(no_variance()); // not a number, too
            }
        }
    }
    for j in 0..size {
        inverse[j * stride + j] = 1.0 / c[j * stride + j];
        for i in j + 1..size {
            let known: f64 = (j..i).map(|k| c[i * stride + k] * inverse[k * stride + j]).sum();
            inverse[i * stride + j] = -known / c[i * stride + i];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unobserved;
    use super::super::testdata::{synthetic, Signal, DIM};
    use super::super::vectors::Rows;
    use super::*;

    fn rows() -> Rows {
        Rows { dim: DIM, data: synthetic(1, Signal::None, 3).items }
    }

    fn sample() -> Store {
        Store::Memory(rows())
    }

    fn in_memory(store: Option<Store>) -> Rows {
        match store {
            Some(Store::Memory(rows)) => rows,
            _ => panic!("moved rows in memory"),
        }
    }

    fn watched<T>(run: impl FnOnce(&mut Watch<'_>) -> Result<T, Error>) -> Result<T, Error> {
        run(&mut Watch::new(&mut Unobserved, None))
    }

    #[test]
    fn moved_vectors_are_centred_and_of_mean_square_length_one() {
        for shrinkage in [1.0, 0.7, 0.1] {
            let moved = watched(|watch| {
                let moments = Moments::of(&sample(), usize::MAX, 1, watch)?;
                Space::shrunk(&moments, shrinkage, watch)?.transform(&sample(), watch)
            });
            let moved = moved.unwrap().unwrap();
            let moments = watched(|watch| Moments::of(&moved, usize::MAX, 1, watch)).unwrap();
            assert!(moments.mean.iter().all(|m| m.abs() < 1e-4));
            assert!((moments.variance() - 1.0).abs() < 1e-3, "{shrinkage}: {}", moments.variance());
        }
    }

    #[test]
    fn little_shrinkage_makes_all_directions_alike() {
        let moments = watched(|watch| {
            let moments = Moments::of(&sample(), usize::MAX, 1, watch)?;
            let moved = Space::shrunk(&moments, 0.01, watch)?.transform(&sample(), watch)?;
            Moments::of(&moved.expect("moved"), usize::MAX, 1, watch)
        })
        .unwrap();
        for i in 0..DIM {
            let variance = moments.covariance[i * DIM + i] * DIM as f64;
            assert!((0.9..1.1).contains(&variance), "{variance}");
        }
    }

    #[test]
    fn the_folded_model_scores_like_the_space_it_comes_from() {
        let (moved, folded) = watched(|watch| {
            let moments = Moments::of(&sample(), 500, 1, watch)?;
            assert_eq!(moments.rows, 500);
            let space = Space::shrunk(&moments, 0.7, watch)?;
            Ok((space.transform(&sample(), watch)?.expect("moved"), space.fold(None, watch)?))
        })
        .unwrap();
        let (moved, x, q) = (in_memory(Some(moved)), rows(), rows().row(7).to_vec());
        let query: Vec<f64> = (0..DIM)
            .map(|i| {
                let row = folded.matrix[i * DIM..][..DIM].iter().zip(&q);
                f64::from(folded.bias[i]) + row.map(|(a, b)| f64::from(a * b)).sum::<f64>()
            })
            .collect();
        let raw = |i: usize| x.row(i).iter().zip(&query).map(|(&a, b)| f64::from(a) * b).sum::<f64>();
        let own = |i: usize| moved.row(i).iter().zip(moved.row(7)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let scale = (raw(1) - raw(0)) / (own(1) - own(0));
        for i in 2..20 {
            assert!(((raw(i) - raw(0)) - scale * (own(i) - own(0))).abs() < 1e-3 * scale);
        }
    }

    #[test]
    fn factors_of_any_size_whiten() {
        for dim in [1, 5, 64, 65, 150] {
            let mut rng = rng::stream(4, "factor");
            let x: Vec<f64> = (0..2 * dim * dim).map(|_| rand::RngExt::random::<f64>(&mut rng) - 0.5).collect();
            let at = |i: usize, j: usize| {
                x.chunks(dim).map(|row| row[i] * row[j]).sum::<f64>() + if i == j { 0.01 } else { 0.0 }
            };
            let c: Vec<f64> = (0..dim * dim).map(|k| at(k / dim, k % dim)).collect();
            let inverse = watched(|watch| inverse_factor(c.clone(), dim, watch)).unwrap();
            for i in 0..dim {
                for j in 0..dim {
                    let one: f64 =
                        (0..dim * dim).map(|k| inverse[i * dim + k / dim] * c[k] * inverse[j * dim + k % dim]).sum();
                    let want = f64::from(u8::from(i == j));
                    assert!((one - want).abs() < 1e-8, "{dim}: {i} {j} {one}");
                    if i < 3 && j > 10 {
                        break; // a sample of the entries is enough
                    }
                }
                if i > 3 && i + 3 < dim {
                    continue;
                }
            }
        }
    }

    #[test]
    fn vectors_that_do_not_differ_are_refused() {
        let same = Store::Memory(Rows { dim: 2, data: [0.6, 0.8].repeat(10) });
        let refused = watched(|watch| Space::shrunk(&Moments::of(&same, 100, 1, watch)?, 1.0, watch));
        assert!(refused.err().unwrap().to_string().contains("do not differ"));
    }
}

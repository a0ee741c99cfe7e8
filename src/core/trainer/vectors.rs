//! Dense rows and the few operations on them that everything else is made of. One thread, fixed order of every sum.

use multiversion::multiversion;

use super::error::Error;
use super::progress::Watch;

/// Rows per block: small enough to look at interrupts in between, large enough for a fast product.
pub(super) const BLOCK: usize = 256;
/// Threads share a product's rows in multiples of this: whole tiles of its kernel.
pub(super) const TILE: usize = 16;

/// Vectors of one length, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub dim: usize,
    pub data: Vec<f32>,
}

impl Rows {
    pub fn zeros(rows: usize, dim: usize) -> Self {
        Self { dim, data: vec![0.0; rows * dim] }
    }

    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.dim..(index + 1) * self.dim]
    }

    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.data[index * self.dim..(index + 1) * self.dim]
    }

    pub fn gather(&self, indices: impl Iterator<Item = u32>) -> Self {
        let mut data = Vec::new();
        for index in indices {
            data.extend_from_slice(self.row(index as usize));
        }
        Self { dim: self.dim, data }
    }

    pub fn as_matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.data, self.len(), self.dim)
    }
}

/// A borrowed row-major matrix, possibly read as its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    strides: (isize, isize),
}

impl<'a> Matrix<'a> {
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Self { data, rows, columns, strides: (columns as isize, 1) }
    }

    /// `count` rows from `first` on.
    pub fn some_rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows);
        let data = &self.data[first * self.strides.0 as usize..];
        Self { data, rows: count, ..self }
    }

    /// `count` columns from `first` on.
    pub fn some_columns(self, first: usize, count: usize) -> Self {
        self.transposed().some_rows(first, count).transposed()
    }

    pub fn rows(self) -> usize {
        self.rows
    }

    pub fn columns(self) -> usize {
        self.columns
    }

    pub fn transposed(self) -> Self {
        let (row, column) = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: (column, row), ..self }
    }
}

/// out = alpha a b + beta out, `out` being row-major.
pub(crate) fn product(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, out: &mut [f32]) {
    assert_eq!(out.len(), a.rows * b.columns);
    product_within(alpha, a, b, beta, (out, b.columns));
}

/// The same into the first columns of a wider matrix, whose rows are `stride` apart.
pub(crate) fn product_within(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, (out, stride): (&mut [f32], usize)) {
    assert_eq!(a.columns, b.rows);
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    let last =
        |m: Matrix<'_>| (m.rows.max(1) - 1) * m.strides.0 as usize + (m.columns.max(1) - 1) * m.strides.1 as usize;
    assert!(a.data.len() > last(a) && b.data.len() > last(b));
    assert!(stride >= b.columns && out.len() > (a.rows.max(1) - 1) * stride + b.columns.max(1) - 1);
    // SAFETY: the last number that each operand is read or written at lies inside its slice, and `out` overlaps none.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.columns,
            b.columns,
            alpha,
            a.data.as_ptr(),
            a.strides.0,
            a.strides.1,
            b.data.as_ptr(),
            b.strides.0,
            b.strides.1,
            beta,
            out.as_mut_ptr(),
            stride as isize,
            1,
        );
    }
}

/// The same in double precision, for square blocks inside larger row-major matrices: (rows, shared, columns), and how
/// far apart the rows of each are.
pub(super) fn product_f64(
    size: (usize, usize, usize),
    alpha: f64,
    (a, a_strides): (&[f64], (usize, usize)),
    (b, b_strides): (&[f64], (usize, usize)),
    beta: f64,
    (out, out_stride): (&mut [f64], usize),
) {
    let (rows, shared, columns) = size;
    let last = |rows: usize, columns: usize, strides: (usize, usize)| {
        (rows.max(1) - 1) * strides.0 + (columns.max(1) - 1) * strides.1
    };
    assert!(a.len() > last(rows, shared, a_strides) && b.len() > last(shared, columns, b_strides));
    assert!(out.len() > last(rows, columns, (out_stride, 1)) && out_stride >= columns);
    // SAFETY: the last number that each operand is read or written at lies inside its slice, and `out` is exclusive.
    unsafe {
        matrixmultiply::dgemm(
            rows,
            shared,
            columns,
            alpha,
            a.as_ptr(),
            a_strides.0 as isize,
            a_strides.1 as isize,
            b.as_ptr(),
            b_strides.0 as isize,
            b_strides.1 as isize,
            beta,
            out.as_mut_ptr(),
            out_stride as isize,
            1,
        );
    }
}

/// out = a b, a few rows at a time, so that a large product stays interruptible.
pub(super) fn product_in_blocks(
    a: Matrix<'_>,
    b: Matrix<'_>,
    out: &mut [f32],
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let (crew, columns) = (watch.crew, b.columns);
    for (index, block) in out.chunks_mut(BLOCK * columns).enumerate() {
        watch.check()?;
        let share = crew.share(block.len() / columns, TILE);
        let parts = block.chunks_mut(share * columns).enumerate().collect();
        crew.each(parts, |(part, out)| {
            let rows = a.some_rows(index * BLOCK + part * share, out.len() / columns);
            product(1.0, rows, b, 0.0, out);
        })?;
    }
    Ok(())
}

/// Lanes of a sum: a fixed number, so that registers of any width give the same result.
const LANES: usize = 16;

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_wide, a_rest) = a.as_chunks::<LANES>();
    let (b_wide, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_wide.iter().zip(b_wide) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn add_scaled(out: &mut [f32], factor: f32, vector: &[f32]) {
    for (o, v) in out.iter_mut().zip(vector) {
        *o += factor * v;
    }
}

/// Adds to sums in double precision.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn add_to(sums: &mut [f64], vector: &[f32]) {
    for (sum, &v) in sums.iter_mut().zip(vector) {
        *sum += f64::from(v);
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(super) fn subtract(vector: &mut [f32], mean: &[f64]) {
    for (v, m) in vector.iter_mut().zip(mean) {
        *v = (f64::from(*v) - m) as f32;
    }
}

/// Length in double precision: squares of small or large numbers do not vanish or overflow.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub fn norm(vector: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (wide, rest) = vector.as_chunks::<LANES>();
    for chunk in wide {
        for lane in 0..LANES {
            lanes[lane] += f64::from(chunk[lane]).powi(2);
        }
    }
    let rest: f64 = rest.iter().map(|&v| f64::from(v).powi(2)).sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}

/// Scales to length 1; a vector without a direction becomes zero.
pub(super) fn normalise(vector: &mut [f32]) {
    let length = norm(vector);
    scale(vector, if length > 1e-30 { 1.0 / length } else { 0.0 });
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn scale(vector: &mut [f32], factor: f64) {
    for v in vector {
        *v = (f64::from(*v) * factor) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_the_definition() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        let mut out = [1.0; 4];
        product(1.0, Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2), 1.0, &mut out);
        assert_eq!(out, [6.0, 12.0, 15.0, 24.0]);
        let mut gram = [0.0; 9];
        product(1.0, Matrix::new(&a, 2, 3).transposed(), Matrix::new(&a, 2, 3), 0.0, &mut gram);
        assert_eq!(gram, [17.0, 22.0, 27.0, 22.0, 29.0, 36.0, 27.0, 36.0, 45.0]);
    }

    #[test]
    fn lengths_survive_extreme_numbers() {
        let mut tiny = [3e-30f32, 4e-30];
        assert!((norm(&tiny) - 5e-30).abs() < 1e-36);
        tiny = [3e30, 4e30];
        normalise(&mut tiny);
        assert!((tiny[0] - 0.6).abs() < 1e-6 && (tiny[1] - 0.8).abs() < 1e-6);
        let long: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(dot(&long, &long), (0..37).map(|i| (i * i) as f32).sum::<f32>());
    }
}

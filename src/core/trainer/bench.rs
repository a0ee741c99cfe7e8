//! One training run by itself, for bench/training.sh: closed form and contrastive stage on random vectors, without
//! validation, so that the same work can be done elsewhere. Ignored by ordinary test runs.

use rand::RngExt;

use super::calibrate::{Moments, Space};
use super::crew::Crew;
use super::examples::Examples;
use super::fit::{profile_sums, Task};
use super::panel::Panel;
use super::progress::{Unobserved, Watch};
use super::residual::Residual;
use super::step::Trainer;
use super::store::Store;
use super::vectors::{product, Matrix, Rows};
use super::{rng, Params};

const ITEMS: usize = 20_000;
const EXAMPLES: usize = 10_240;
const EPOCHS: usize = 5;
const SAVED_PER_USER: usize = 20;

/// Seconds that this thread has been on a processor: other programs of the machine do not count.
fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the struct given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn best<T>(times: usize, mut run: impl FnMut() -> T) -> f64 {
    let once = |_| {
        let start = now();
        std::hint::black_box(run());
        now() - start
    };
    (0..times).map(once).fold(f64::INFINITY, f64::min)
}

/// GFLOP/s of a large product.
fn peak() -> f64 {
    let size = 2048;
    let (a, b, mut out) = (vec![0.5; size * size], vec![0.25; size * size], vec![0.0; size * size]);
    let seconds = best(5, || product(1.0, Matrix::new(&a, size, size), Matrix::new(&b, size, size), 0.0, &mut out));
    2.0 * (size as f64).powi(3) / seconds / 1e9
}

fn random_examples(params: &Params) -> Examples {
    let mut rng = rng::stream(1, "bench");
    let width = 1 + params.negatives_per_positive;
    let mut draw = |count: usize| (0..count).map(|_| rng.random_range(0..ITEMS as u32)).collect::<Vec<_>>();
    let profiles: Vec<Vec<u32>> = (0..EXAMPLES / 10).map(|_| draw(SAVED_PER_USER)).collect();
    let mut items = draw(EXAMPLES * width);
    for index in 0..EXAMPLES {
        items[index * width] = profiles[index / 10][index % SAVED_PER_USER];
    }
    let profile = (0..EXAMPLES as u32).map(|i| i / 10).collect();
    Examples {
        width,
        items,
        profile,
        weights: vec![1.0; EXAMPLES],
        profiles,
        without_itself: true,
        ..Examples::default()
    }
}

/// A calibrated space full of random vectors, and how long that took.
fn moved(dim: usize, watch: &mut Watch<'_>) -> (Space, Store, f64) {
    let mut rng = rng::stream(1, "vectors");
    let mut items = Rows { dim, data: (0..ITEMS * dim).map(|_| rng.random::<f32>() - 0.45).collect() };
    (0..ITEMS).for_each(|i| super::vectors::normalise(items.row_mut(i)));
    let items = Store::Memory(items);
    let start = now();
    let moments = Moments::of(&items, ITEMS, 1, watch).unwrap();
    let space = Space::shrunk(&moments, 0.7, watch).unwrap();
    let moved = space.transform(&items, watch).unwrap().unwrap();
    (space, moved, now() - start)
}

/// Some epochs, which leave this behind.
fn trained(items: &Store, full: bool, watch: &mut Watch<'_>) -> Residual {
    let (params, none, queries) = (Params::default(), Panel::nobody(items.dim()), Rows::zeros(0, items.dim()));
    let examples = random_examples(&params);
    let task = Task {
        name: "bench",
        items,
        sums: &profile_sums(items, &examples, watch).unwrap(),
        examples: &examples,
        validation: &none,
        validation_queries: &queries,
        params: &params,
        share: (0.0, 1.0),
    };
    let mut residual = if full { Residual::full(items.dim()) } else { Residual::thin(items.dim(), 1) };
    let mut trainer = Trainer::new(&task, &residual);
    for epoch in 1..=EPOCHS {
        trainer.epoch(&task, &mut residual, epoch, None, watch).unwrap();
    }
    residual
}

#[test]
#[ignore = "a benchmark"]
fn time_of_a_run() {
    let mut observer = Unobserved;
    let watch = &mut Watch::new(&mut observer, None);
    let peak = peak();
    for dim in [384, 768, 1536] {
        let (space, items, closed) = moved(dim, watch);
        for full in [true, false] {
            let start = now();
            let residual = trained(&items, full, watch);
            let train = now() - start;
            let start = now();
            space.fold(Some(&residual.dense()), watch).unwrap();
            let fold = now() - start;
            // products: two of the full matrix, five with its thin factors; two operations a number
            let matrix = if full { 2 * 2 * dim * dim } else { 5 * 2 * dim * 32 };
            let gflop = (EPOCHS * EXAMPLES * (matrix + 4 * 5 * dim)) as f64 / 1e9;
            println!(
                "{{\"dim\": {dim}, \"form\": \"{}\", \"closed_s\": {closed:.4}, \"train_s\": {train:.4}, \"fold_s\": {fold:.4}, \
                 \"gflop\": {gflop:.2}, \"gflop_s\": {:.1}, \"peak\": {peak:.1}, \"share\": {:.3}}}",
                if full { "full" } else { "rank 32" },
                gflop / train,
                gflop / train / peak
            );
        }
        let mut by_the_clock = |threads: usize| {
            watch.crew = Crew::together(threads);
            let start = std::time::Instant::now();
            let residual = trained(&items, true, watch);
            (start.elapsed().as_secs_f64(), residual.parameters)
        };
        let ((alone, first), (together, second)) = (by_the_clock(1), by_the_clock(2));
        assert!(first == second, "{dim}: another number of threads gave other bytes");
        println!("{{\"dim\": {dim}, \"threads\": 2, \"alone_s\": {alone:.4}, \"together_s\": {together:.4}}}");
        watch.crew = Crew::alone();
    }
}

//! Threads that share a piece of work. Who does which part is no part of the result: every number is computed in the same
//! way and in the same order by however many.

use std::sync::Mutex;

use super::error::Error;

/// Runs a function for all numbers below a count at the same time; false if one of them broke down.
pub type Beside = fn(usize, &(dyn Fn(usize) + Sync)) -> bool;

/// How many work together, and how the others are called.
#[derive(Debug, Clone, Copy)]
pub struct Crew {
    pub threads: usize,
    pub beside: Beside,
}

impl Crew {
    /// The calling thread and nobody else.
    pub fn alone() -> Self {
        let in_turn = |count: usize, work: &(dyn Fn(usize) + Sync)| {
            (0..count).for_each(work);
            true
        };
        Self { threads: 1, beside: in_turn }
    }

    /// Of so many things, how many each gets: a multiple of `unit`.
    pub fn share(self, things: usize, unit: usize) -> usize {
        things.div_ceil(unit).div_ceil(self.threads.max(1)).max(1) * unit
    }

    /// Does `work` on every part.
    pub fn each<T: Send>(self, parts: Vec<T>, work: impl Fn(T) + Sync) -> Result<(), Error> {
        if self.threads <= 1 || parts.len() <= 1 {
            parts.into_iter().for_each(work);
            return Ok(());
        }
        let cells: Vec<Mutex<Option<T>>> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
        let some = |first: usize| {
            for cell in cells[first..].iter().step_by(self.threads) {
                let part = cell.lock().ok().and_then(|mut cell| cell.take());
                part.into_iter().for_each(&work);
            }
        };
        match (self.beside)(self.threads.min(cells.len()), &some) {
            true => Ok(()),
            false => Err(Error::Input("a helper thread broke down".into())),
        }
    }
}

#[cfg(test)]
impl Crew {
    /// With threads of the standard library, as tests have no signals to keep away.
    pub fn together(threads: usize) -> Self {
        let beside = |count: usize, work: &(dyn Fn(usize) + Sync)| {
            std::thread::scope(|scope| (0..count).for_each(|number| drop(scope.spawn(move || work(number)))));
            true
        };
        Self { threads, beside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_worked_on_once() {
        for threads in [1, 2, 5] {
            let crew = Crew::together(threads);
            let share = crew.share(37, 4);
            assert!(37usize.div_ceil(share) <= threads);
            for share in [share, 1] {
                let mut numbers = [0u32; 37];
                crew.each(numbers.chunks_mut(share).collect(), |part| part.iter_mut().for_each(|n| *n += 1)).unwrap();
                assert_eq!(numbers, [1; 37]);
            }
        }
    }
}

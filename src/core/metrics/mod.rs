//! Measures of predictions against what happened: undefined is None, never 0; what cannot be judged is counted and left out.

pub mod confusion;
pub mod histogram;
pub mod labels;
pub mod probability;
pub mod ranking;
pub mod scores;
pub mod survival;

#[cfg(test)]
mod test_data;

//! Who gets which variant: a hash of seed and user id, and the sets of buckets that belong to each arm.

pub mod allocation;
pub mod hash;
pub mod plan;
pub mod unit;

#[cfg(test)]
mod test_data;
#[cfg(test)]
mod vendor_tests;

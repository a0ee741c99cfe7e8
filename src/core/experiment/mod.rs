//! Who gets which variant: a hash of seed and user id, and the sets of buckets that belong to each arm.

pub mod allocation;
pub mod hash;

#[cfg(test)]
mod test_data;

//! Inputs shared by the benchmarks.

/// A small generator of its own, so that inputs never change.
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed, which is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

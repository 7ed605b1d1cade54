//! Computation for its own sake: what `BC_CPU_US` adds and what a job of kind `cpu` does.

/// Does a slice of work, of some ten microseconds, and returns what it computed, so that no
/// compiler leaves it out; who calls it looks at the clock in between.
#[must_use]
pub fn slice(seed: u64) -> u64 {
    // FNV-1a over a counter: dependent multiplications, no memory, no branches.
    (0..4096_u64).fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ (byte & 0xff)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_depends_on_its_seed() {
        assert_ne!(slice(1), slice(2));
        assert_eq!(slice(1), slice(1));
    }
}

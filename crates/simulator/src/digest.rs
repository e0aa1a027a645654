//! FNV-1a: the one hash of the simulator.
//!
//! Chosen because a test in any language can repeat it in three lines, and so check that the right answer reached the
//! right job.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, 64 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// A digest, stirred with a salt, as a fraction of 0..1. FNV's upper bits move little for short inputs, hence the
/// finaliser (that of `SplitMix64`).
pub(super) fn fraction(digest: u64, salt: u64) -> f64 {
    let mut z = digest ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // 53 bits are what an f64 holds exactly.
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_share_of_one_twentieth_takes_about_one_digest_in_twenty() {
        let taken = (0..100_000_u32).filter(|n| fraction(fnv1a(&n.to_le_bytes()), 3) < 0.05).count();
        assert!((4_700..=5_300).contains(&taken), "{taken}");
    }
}

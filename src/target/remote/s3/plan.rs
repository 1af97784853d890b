//! How an object is cut into parts when its length is not known.

use std::path::PathBuf;

const MIB: u64 = 1 << 20;

/// Some parts of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// How many.
    pub parts: u32,
    /// Bytes of each, but of an object's last one.
    pub bytes: u64,
    /// They wait in a file, since they are too large for memory.
    pub in_file: bool,
}

/// How an object is cut into parts: small ones first, larger ones as it turns out to be long.
#[derive(Debug, Clone)]
pub struct PartPlan {
    /// One after the other. More than 10,000 parts in all are taken by no store.
    pub tiers: Vec<Tier>,
    /// Bytes of parts on their way at the same time; one more is being filled.
    pub in_flight: u64,
    /// Where parts wait that are too large for memory.
    pub folder: PathBuf,
}

impl Default for PartPlan {
    /// 187 GiB by way of 64 MiB of memory, then up to 5.2 TiB by way of two files.
    fn default() -> Self {
        Self {
            tiers: vec![
                Tier { parts: 4000, bytes: 16 * MIB, in_file: false },
                Tier { parts: 4000, bytes: 32 * MIB, in_file: false },
                Tier { parts: 2000, bytes: 2662 * MIB, in_file: true },
            ],
            in_flight: 48 * MIB,
            folder: PathBuf::from("/var/tmp"),
        }
    }
}

impl PartPlan {
    /// The tier of a part, counted from 1; none where the object has become too long.
    pub(super) fn part(&self, number: u32) -> Option<Tier> {
        let mut before = 0;
        self.tiers.iter().copied().find(|tier| {
            before += tier.parts;
            number <= before
        })
    }

    /// How many of the bytes in flight a part takes: it may be all of them.
    pub(super) fn share(&self, bytes: u64) -> u32 {
        bytes.clamp(1, self.in_flight).try_into().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_suffice_for_the_longest_object_and_memory_is_bounded() {
        let plan = PartPlan::default();
        let sizes = |number: u32| plan.part(number).map(|tier| tier.bytes);
        assert_eq!(sizes(1), Some(16 * MIB));
        assert_eq!(sizes(4000), Some(16 * MIB));
        assert_eq!(sizes(4001), Some(32 * MIB));
        assert_eq!(sizes(10_000), Some(2662 * MIB));
        assert_eq!(sizes(10_001), None);
        let total: u64 = (1..=10_000).filter_map(sizes).sum();
        assert!(total > 5 << 40, "{total}");
        // Parts of at least 5 MiB and at most 5 GiB are what stores take.
        assert!(plan.tiers.iter().all(|tier| (5 * MIB..=5 << 30).contains(&tier.bytes)));
        for tier in plan.tiers.iter().filter(|tier| !tier.in_file) {
            let flying = plan.in_flight / tier.bytes * tier.bytes;
            assert!(flying + tier.bytes <= 64 * MIB, "{tier:?}");
        }
    }
}

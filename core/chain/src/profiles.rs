//! Chain profiles: the defaults of the chains that are used most, by chain id.
//!
//! A chain that differs from Ethereum in how it hashes, in what its blocks hold, or in how often
//! it makes them would stop at the first check that it cannot pass. Its profile turns that check
//! off. Every value is a default: the same key in `[[chain]]` overrides it.
//!
//! | check | turned off where |
//! |---|---|
//! | `header_hash` | the header has other fields than Ethereum's, or another hash |
//! | `transactions_root`, `receipts_root` | the roots are those of another tree, or constant |
//! | `logs_bloom` | the bloom is constant, absent, or of other logs |
//!
//! A chain without a profile is checked as Ethereum is, with a block every two seconds.

use std::time::Duration;

use crate::Finality;

/// The defaults of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) id: u64,
    /// The usual time between two blocks, in milliseconds.
    pub(crate) block_time_ms: u64,
    pub(crate) finality: Finality,
    /// The deepest reorg, in blocks.
    pub(crate) reorg_limit: usize,
    pub(crate) header_hash: bool,
    pub(crate) transactions_root: bool,
    pub(crate) receipts_root: bool,
    pub(crate) logs_bloom: bool,
    /// Whether blocks hold transactions or receipts of the chain itself, outside their roots.
    pub(crate) system_transactions: bool,
}

/// A chain that is checked as Ethereum is.
const CHECKED: Profile = Profile {
    id: 0,
    block_time_ms: 2_000,
    finality: Finality::Unsaid,
    reorg_limit: 128,
    header_hash: true,
    transactions_root: true,
    receipts_root: true,
    logs_bloom: true,
    system_transactions: false,
};

/// A chain whose blocks hash in another way altogether.
const UNCHECKED: Profile = Profile {
    header_hash: false,
    transactions_root: false,
    receipts_root: false,
    logs_bloom: false,
    ..CHECKED
};

const fn checked(id: u64, block_time_ms: u64) -> Profile {
    Profile {
        id,
        block_time_ms,
        ..CHECKED
    }
}

const fn unchecked(id: u64, block_time_ms: u64, finality: Finality) -> Profile {
    Profile {
        id,
        block_time_ms,
        finality,
        ..UNCHECKED
    }
}

/// The profiles, by id. docs/chains.md has the same table.
const PROFILES: [Profile; 24] = [
    // Ethereum
    checked(1, 12_000),
    // OP Mainnet
    checked(10, 2_000),
    // Cronos: blocks of CometBFT, final at once
    unchecked(25, 1_000, Finality::Depth(1)),
    // BNB Smart Chain
    checked(56, 750),
    // Gnosis
    checked(100, 5_000),
    // Unichain
    checked(130, 1_000),
    // Polygon: deep reorgs, and state-sync transactions
    Profile {
        reorg_limit: 256,
        system_transactions: true,
        ..checked(137, 2_000)
    },
    // Sonic: headers of events
    Profile {
        header_hash: false,
        receipts_root: false,
        ..checked(146, 1_000)
    },
    // Fantom: headers of events
    Profile {
        header_hash: false,
        receipts_root: false,
        ..checked(250, 1_000)
    },
    // Filecoin: tipsets, final after 900
    unchecked(314, 30_000, Finality::Depth(900)),
    // zkSync Era: a constant bloom
    unchecked(324, 1_000, Finality::Unsaid),
    // World Chain
    checked(480, 2_000),
    // Sei: blocks of CometBFT, final at once
    unchecked(1_329, 1_000, Finality::Depth(1)),
    // Mantle
    checked(5_000, 2_000),
    // Base
    checked(8_453, 2_000),
    // Arbitrum One
    checked(42_161, 250),
    // Celo
    checked(42_220, 1_000),
    // Avalanche C-Chain: headers with further fields
    Profile {
        header_hash: false,
        ..checked(43_114, 2_000)
    },
    // Ink
    checked(57_073, 1_000),
    // Linea
    checked(59_144, 2_000),
    // Berachain: headers with further fields
    Profile {
        header_hash: false,
        ..checked(80_094, 2_000)
    },
    // Blast
    checked(81_457, 2_000),
    // Scroll
    checked(534_352, 1_000),
    // Aurora: blocks of NEAR
    unchecked(1_313_161_554, 1_000, Finality::Unsaid),
];

/// The transaction types that the blocks of a chain hold besides Ethereum's. Such a transaction
/// cannot be hashed here, so a block that holds one is not proved against its roots. On every other
/// chain an unknown type fails the proof.
pub(crate) fn own_types(id: u64) -> &'static [u8] {
    match id {
        // Deposits of the OP Stack: OP Mainnet, Unichain, Fraxtal, Orderly, World Chain, Lisk,
        // Soneium, Mantle, Base, Mode, Ink, Blast, Zora; the test networks of OP, Unichain,
        // World Chain, Mantle, Base, Ink and Blast.
        10 | 130 | 252 | 291 | 480 | 1_135 | 1_868 | 5_000 | 8_453 | 34_443 | 57_073 | 81_457
        | 7_777_777 | 11_155_420 | 1_301 | 4_801 | 5_003 | 84_532 | 763_373 | 168_587_773 => {
            &[0x7E]
        }
        // Polygon and its test network: state-sync transactions.
        137 | 80_002 => &[0x7F],
        // zkSync Era and its test network: own accounts, priority and upgrade transactions.
        324 | 300 => &[0x71, 0xFE, 0xFF],
        // Celo and its test networks: fees in other currencies, and deposits.
        42_220 | 44_787 | 11_142_220 => &[0x7A, 0x7B, 0x7C, 0x7E],
        // Arbitrum One and Nova, and the test network: deposits, contracts, retryables, internals
        // and transactions of the first Arbitrum.
        42_161 | 42_170 | 421_614 => &[0x64, 0x65, 0x66, 0x68, 0x69, 0x6A, 0x78],
        // Berachain and its test network: distribution of rewards.
        80_094 | 80_069 => &[0x7E],
        // Scroll and its test network: messages from Ethereum.
        534_352 | 534_351 => &[0x7E],
        _ => &[],
    }
}

/// The symbol of a chain's coin, if it is known.
pub(crate) fn coin(id: u64) -> Option<&'static str> {
    Some(match id {
        1 | 10 | 130 | 324 | 480 | 8_453 | 42_161 | 57_073 | 59_144 | 81_457 | 534_352
        | 1_313_161_554 => "ETH",
        25 => "CRO",
        56 => "BNB",
        100 => "xDAI",
        137 => "POL",
        146 => "S",
        250 => "FTM",
        314 => "FIL",
        1_329 => "SEI",
        5_000 => "MNT",
        42_220 => "CELO",
        43_114 => "AVAX",
        80_094 => "BERA",
        _ => return None,
    })
}

impl Profile {
    /// The profile of a chain; of a chain without one, the one that checks everything.
    pub(crate) fn of(id: u64) -> Self {
        let mut all = PROFILES.iter();
        let found = all.find(|profile| profile.id == id).copied();
        found.unwrap_or(Self { id, ..CHECKED })
    }

    pub(crate) fn block_time(&self) -> Duration {
        Duration::from_millis(self.block_time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_is_of_another_chain_and_within_the_bounds_of_its_keys() {
        assert!(PROFILES.is_sorted_by_key(|profile| profile.id));
        for pair in PROFILES.windows(2) {
            assert_ne!(pair[0].id, pair[1].id);
        }
        for profile in PROFILES {
            let config = serde_json::json!({"id": profile.id, "endpoints": ["http://127.0.0.1:1"]});
            let config = serde_json::from_value(config).unwrap();
            crate::ChainConfig::check_all(&[config]).unwrap();
        }
        assert_eq!(Profile::of(31_337), checked(31_337, 2_000));
        assert!(!Profile::of(324).logs_bloom);
    }

    #[test]
    fn the_documentation_has_every_profile() {
        let docs = include_str!("../../../docs/chains.md");
        for profile in PROFILES {
            let types = own_types(profile.id).iter();
            let types: Vec<_> = types.map(|one| format!("{one:#04x}")).collect();
            let row = format!("| {} | `{}` |", profile.id, types.join("`, `"));
            assert_eq!(docs.contains(&row), !types.is_empty(), "{row}");
        }
        for profile in PROFILES {
            let off = [
                (profile.header_hash, "`header_hash`"),
                (profile.transactions_root, "`transactions_root`"),
                (profile.receipts_root, "`receipts_root`"),
                (profile.logs_bloom, "`logs_bloom`"),
            ];
            let off: Vec<_> = off
                .into_iter()
                .filter(|(is_on, _)| !is_on)
                .map(|(_, key)| key)
                .collect();
            let begin = format!("| {} | ", profile.id);
            let mut rows = docs.lines().filter(|line| line.starts_with(&begin));
            let row = rows
                .next()
                .unwrap_or_else(|| panic!("no row of {}", profile.id));
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let time = humantime::format_duration(profile.block_time()).to_string();
            assert_eq!(cells[2], time, "{row}");
            let listed = match off.as_slice() {
                [] => "none".to_owned(),
                off => off.join(", "),
            };
            assert_eq!(cells[3], listed, "{row}");
        }
    }
}

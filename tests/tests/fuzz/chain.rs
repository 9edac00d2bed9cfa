//! Chain input: logs, revert data, event signatures, values decoded by signature, and
//! filters. Inputs are valid examples with some words replaced, and random bytes.

use alloy::primitives::{Address, B256, U256, address, keccak256};
use bolero::TypeGenerator;
use tidewire_chain::{
    abi::EventAbi,
    decode::{CustomErrors, decode, revert_reason},
    events::Filter,
};
use tidewire_proto::v1::EventFilter;

use super::iterations;

const PERMIT2: Address = address!("000000000022d473030f116ddee9f6b43ac78ba3");

const TOKEN_EVENTS: [&str; 10] = [
    "Transfer(address,address,uint256)",
    "Approval(address,address,uint256)",
    "ApprovalForAll(address,address,bool)",
    "TransferSingle(address,address,address,uint256,uint256)",
    "TransferBatch(address,address,address,uint256[],uint256[])",
    "Deposit(address,uint256)",
    "Withdrawal(address,uint256)",
    "Approval(address,address,address,uint160,uint48)",
    "Permit(address,address,address,uint160,uint48,uint48)",
    "Lockdown(address,address,address)",
];

const SIGNATURES: [&str; 6] = [
    "event Transfer(address indexed from, address indexed to, uint256 value)",
    "Named(string indexed name, bytes data, int8 small)",
    "E((uint256 id, string name)[] items, (bool, bytes)[2] pairs)",
    "E(uint256[][] grid, address[3] who, bytes4 id)",
    "event Long(uint8 a, uint16 b, bytes32 c, function d);",
    "E(string[] texts)",
];

/// A 32-byte word: a length, an offset, a large number, all ones, or random bytes.
#[derive(Debug, Clone, TypeGenerator)]
enum Word {
    Small(u8),
    Offset(u8),
    Large(u64),
    All,
    Any([u8; 32]),
}

impl Word {
    fn bytes(&self) -> B256 {
        match self {
            Self::Small(number) => U256::from(*number % 5).into(),
            Self::Offset(words) => U256::from(u64::from(*words % 16) * 32).into(),
            Self::Large(number) => U256::from(*number).into(),
            Self::All => U256::MAX.into(),
            Self::Any(bytes) => (*bytes).into(),
        }
    }
}

/// A log, or revert data.
#[derive(Debug, Clone, TypeGenerator)]
struct Case {
    which: u8,
    topics: u8,
    words: Vec<Word>,
    cut: u8,
}

impl Case {
    fn topics(&self, first: B256) -> Vec<B256> {
        let rest = self.words.iter().take(usize::from(self.topics % 5));
        std::iter::once(first)
            .chain(rest.map(Word::bytes))
            .collect()
    }

    fn data(&self) -> Vec<u8> {
        let mut data: Vec<u8> = self.words.iter().flat_map(|word| word.bytes().0).collect();
        // Most cases keep whole words.
        if self.cut > 200 {
            data.truncate(data.len().saturating_sub(usize::from(self.cut - 200)));
        }
        data
    }
}

#[test]
fn token_logs() {
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Case>()
        .for_each(|case| {
            let name = TOKEN_EVENTS[usize::from(case.which) % TOKEN_EVENTS.len()];
            let topics = case.topics(keccak256(name));
            let data = case.data();
            for contract in [PERMIT2, Address::ZERO] {
                let decoded = decode(contract, &topics, &data);
                if let Ok(Some(event)) = decoded {
                    let _ = event.is_unlimited();
                }
            }
        });
}

#[test]
fn revert_data() {
    let errors = CustomErrors::well_known();
    let selectors = [
        "Error(string)",
        "Panic(uint256)",
        "ERC20InsufficientBalance(address,uint256,uint256)",
        "Unknown()",
    ];
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Case>()
        .for_each(|case| {
            let selector = selectors[usize::from(case.which) % selectors.len()];
            let data = [&keccak256(selector)[..4], &case.data()].concat();
            for data in [&data[..], &data[4..]] {
                let reason = revert_reason(data, &errors);
                assert!(!reason.is_empty() && reason.chars().count() <= 501);
                assert!(!reason.contains(char::is_control));
            }
        });
}

#[test]
fn values_by_signature() {
    let events = SIGNATURES.map(|signature| EventAbi::parse(signature).unwrap());
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Case>()
        .for_each(|case| {
            let event = &events[usize::from(case.which) % events.len()];
            let topics = case.topics(event.topic());
            let data = case.data();
            let Some(args) = event.decode(&topics, &data) else {
                return;
            };
            let value: serde_json::Value = serde_json::from_str(&args).unwrap();
            assert!(value.is_object());
            // A word is decoded at most four times, at up to 6 characters per byte.
            let words = (data.len() / 32 + topics.len() + 1) * 4;
            assert!(args.len() <= words * 32 * 6 + 200, "{} bytes", args.len());
        });
}

/// A signature with random tokens inserted.
#[derive(Debug, Clone, TypeGenerator)]
struct Text {
    which: u8,
    edits: [(u16, u8, u8); 3],
    count: u8,
}

#[test]
fn signatures_and_filters() {
    let tokens = [
        "(",
        ")",
        "[",
        "]",
        ",",
        " ",
        "tuple",
        "indexed",
        "uint256",
        "[0]",
        "[99999999999]",
        "((((((((((",
        "anonymous",
        "é",
        "\u{0}",
        ";",
        "event ",
        "[][][][][][][][][]",
        "0x",
        "",
    ];
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Text>()
        .for_each(|case| {
            let mut text = SIGNATURES[usize::from(case.which) % SIGNATURES.len()].to_owned();
            for (at, remove, token) in &case.edits[..usize::from(case.count % 4)] {
                let at = text.floor_char_boundary(usize::from(*at) % (text.len() + 1));
                let end = text.len().min(at + usize::from(remove % 8));
                let end = text.floor_char_boundary(end).max(at);
                text.replace_range(at..end, tokens[usize::from(*token) % tokens.len()]);
            }
            if let Ok(event) = EventAbi::parse(&text) {
                // An accepted signature decodes any data without a panic.
                let _ = event.decode(&[event.topic()], &[0; 640]);
            }
            let filter = EventFilter {
                addresses: vec![text.clone()],
                topics: vec![text.clone()],
                abi: vec![text],
            };
            assert!(Filter::parse(&filter).is_err());
        });
}

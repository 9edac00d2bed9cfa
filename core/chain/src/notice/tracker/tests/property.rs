//! Property test: random blocks, reorgs, watches and restarts against the chain itself.
//!
//! A user's notices of one subject alternate between an outcome and a reorg. At the end the last
//! one says what the chain says.

use proptest::prelude::*;

use super::*;

/// Something that happens to a chain. Numbers choose a transaction.
#[derive(Debug, Clone)]
enum Step {
    /// A block with these payments to Ada's wallet and transactions of it.
    Mine(Vec<(u8, bool)>),
    /// As many of the newest blocks are replaced by one with these.
    Reorg(u8, Vec<(u8, bool)>),
    /// A back end watches a transaction for Ada.
    Watch(u8),
}

fn contents() -> impl Strategy<Value = Vec<(u8, bool)>> {
    prop::collection::vec((0..12_u8, any::<bool>()), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => contents().prop_map(Step::Mine),
        1 => (1..5_u8, contents()).prop_map(|(depth, block)| Step::Reorg(depth, block)),
        2 => (0..12_u8).prop_map(Step::Watch),
    ]
}

/// A canonical block, with the transactions that it includes.
struct Mined {
    data: Arc<BlockData>,
    contents: BTreeMap<u8, bool>,
}

#[derive(Default)]
struct Chain {
    blocks: Vec<Mined>,
    /// The greatest height so far.
    highest: usize,
    /// The number of blocks ever mined, which makes each one's hash its own.
    count: u64,
    watched: BTreeSet<u8>,
    /// The notices of each subject, in order.
    notified: BTreeMap<(B256, NoticeTopic), Vec<NoticeState>>,
}

impl Chain {
    fn take(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            let news = self.notified.entry((notice.hash, notice.topic));
            let news = news.or_default();
            let is_reorg = notice.state == Reorged;
            let was_reorg = news.last().is_none_or(|last| *last == Reorged);
            assert_ne!(is_reorg, was_reorg, "{news:?}, then {notice:?}");
            news.push(notice.state);
        }
    }

    /// Applies a block in the place of the newest `depth` ones.
    async fn apply(&mut self, world: &mut World, depth: usize, contents: &[(u8, bool)]) {
        // Deeper reorgs are a resync.
        self.highest = self.highest.max(self.blocks.len());
        let lowest = self.highest.saturating_sub(RULES.reorg_limit as usize);
        let kept = self.blocks.len().saturating_sub(depth).max(lowest);
        let retracted: Vec<_> = self.blocks.drain(kept..).rev().collect();
        self.count += 1;
        let mut data = (*block(kept as u64 + 1, 0)).clone();
        data.block.hash = B256::left_padding_from(&(self.count + 1_000_000).to_be_bytes());
        // A chain includes a transaction once.
        let is_new = |number: &u8| {
            let mut blocks = self.blocks.iter();
            blocks.all(|mined| !mined.contents.contains_key(number))
        };
        let contents: BTreeMap<_, _> = contents
            .iter()
            .copied()
            .filter(|(number, _)| is_new(number))
            .collect();
        let number = data.block.number;
        let events: Vec<_> = contents
            .iter()
            .map(|(transaction, is_payment)| {
                let direction = match is_payment {
                    true => Direction::In,
                    false => Direction::Out,
                };
                let state = TransactionState::Confirming;
                event(wallet(1), number, hash(*transaction), direction, state)
            })
            .collect();
        let update = ChainUpdate {
            chain: 1,
            retracted: retracted.into_iter().map(|mined| mined.data).collect(),
            included: Arc::new(data.clone()),
            finalized: None,
        };
        let context = NoticeContext {
            links: &world.links,
            now_ms: world.now_ms,
        };
        let notices = world.tracker.apply(&update, &events, Vec::new(), context);
        world.tracker.prune(|_| true, world.now_ms);
        self.take(notices);
        world.restart().await;
        self.blocks.push(Mined {
            data: Arc::new(data),
            contents,
        });
        for number in self.watched.clone() {
            self.check(world, number);
        }
    }

    /// Sends the status of a watched transaction, as the transaction tracker does.
    fn check(&mut self, world: &mut World, number: u8) {
        let mut blocks = self.blocks.iter();
        let Some(mined) = blocks.find(|mined| mined.contents.contains_key(&number)) else {
            return;
        };
        let mut confirming = status(TransactionState::Confirming, Some(&mined.data));
        confirming.hash = hash(number).to_string();
        let concern = Concern {
            users: vec!["ada".into()],
            transfer: None,
        };
        let context = NoticeContext {
            links: &world.links,
            now_ms: world.now_ms,
        };
        let notices = world.tracker.apply_status(&confirming, &concern, context);
        self.take(notices);
    }
}

async fn check(steps: Vec<Step>) {
    let (mut world, mut chain) = (World::new(), Chain::default());
    world.link("ada", 1);
    for step in steps {
        match step {
            Step::Mine(contents) => chain.apply(&mut world, 0, &contents).await,
            Step::Reorg(depth, contents) => {
                chain.apply(&mut world, depth.into(), &contents).await;
            }
            Step::Watch(number) => {
                chain.watched.insert(number);
                chain.check(&mut world, number);
            }
        }
    }
    for _ in 0..RULES.required {
        chain.apply(&mut world, 0, &[]).await;
    }
    let mut expected = BTreeSet::new();
    for mined in &chain.blocks {
        for (number, is_payment) in &mined.contents {
            let topic = match is_payment {
                true => NoticeTopic::Payment,
                false => NoticeTopic::Transaction,
            };
            expected.insert((hash(*number), topic));
            if chain.watched.contains(number) {
                expected.insert((hash(*number), NoticeTopic::Transaction));
            }
        }
    }
    let notified = chain.notified.iter();
    let confirmed = notified.filter(|(_, news)| news.last() == Some(&Confirmed));
    let confirmed: BTreeSet<_> = confirmed.map(|(subject, _)| *subject).collect();
    assert_eq!(confirmed, expected);
}

proptest! {
    #[test]
    fn notices_follow_the_chain(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(steps));
    }
}

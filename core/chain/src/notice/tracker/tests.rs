//! Tests of the notice tracker, on blocks without transactions and events that are made by hand.

mod property;

use std::{collections::HashMap, sync::Arc};

use tidewire_proto::v1::WalletUpdate;
use tidewire_store::{MemoryStore, SharedStore};

use super::*;
use crate::{BlockRef, channel::wallet_channel, notice::Grouping};

const RULES: ConfirmationRules = ConfirmationRules {
    required: 3,
    finality_depth: 64,
    reorg_limit: 8,
};

/// The time of every block.
const TIME: i64 = 1_700_000_000_000;

fn wallet(number: u8) -> Address {
    Address::with_last_byte(number)
}

fn hash(number: u8) -> B256 {
    B256::repeat_byte(number)
}

fn block(number: u64, branch: u8) -> Arc<BlockData> {
    let hash =
        |number: u64| B256::left_padding_from(&[&number.to_be_bytes()[..], &[branch]].concat());
    Arc::new(BlockData {
        block: BlockRef {
            number,
            hash: hash(number),
            parent: hash(number - 1),
        },
        timestamp: TIME,
        base_fee: None,
        bloom: Default::default(),
        transactions: Vec::new(),
        logs: Vec::new(),
        receipts: Vec::new(),
        withdrawals: Vec::new(),
    })
}

/// A tracker with the links of its wallets.
struct World {
    tracker: NoticeTracker,
    links: Links,
    now_ms: i64,
    store: SharedStore,
}

impl World {
    fn new() -> Self {
        Self::with_listed(&[])
    }

    fn with_listed(tokens: &[Address]) -> Self {
        let listed = tokens.iter().copied().collect();
        Self {
            tracker: NoticeTracker::new(1, RULES, listed, PaymentLimits::default()),
            links: Links::default(),
            now_ms: TIME,
            store: Arc::new(MemoryStore::default()),
        }
    }

    fn link(&self, user: &str, number: u8) {
        self.links.link(wallet(number), &UserId::new(user)).unwrap();
    }

    /// Applies a block, and restarts the tracker.
    async fn apply(
        &mut self,
        retracted: &[Arc<BlockData>],
        included: &Arc<BlockData>,
        events: &[ChannelEvent],
        payments: Vec<TokenPayment>,
    ) -> Vec<(String, NoticeState)> {
        let update = ChainUpdate {
            chain: 1,
            retracted: retracted.to_vec(),
            included: included.clone(),
            finalized: None,
        };
        let context = NoticeContext {
            links: &self.links,
            now_ms: self.now_ms,
        };
        let notices = self.tracker.apply(&update, events, payments, context);
        self.tracker.prune(|_| false, self.now_ms);
        self.restart().await;
        news(&notices)
    }

    async fn mine(&mut self, number: u64, events: &[ChannelEvent]) -> Vec<(String, NoticeState)> {
        self.apply(&[], &block(number, 0), events, Vec::new()).await
    }

    async fn restart(&mut self) {
        let mut batch = Batch::new();
        self.tracker.stage(&mut batch);
        self.store.commit(batch).await.unwrap();
        let tracker = &self.tracker;
        let (listed, limits) = (tracker.listed.clone(), tracker.limits.clone());
        let mut restored = NoticeTracker::new(1, RULES, listed, limits);
        restored.restore(&*self.store).await.unwrap();
        assert_eq!(restored.blocks, tracker.blocks);
        assert_eq!(restored.count, tracker.count);
        // Both come with the next block, and a check may come before it.
        restored.head = tracker.head;
        restored.head_time_ms = tracker.head_time_ms;
        restored.finalized = tracker.finalized;
        self.tracker = restored;
    }

    fn status(&mut self, users: &[&str], status: &TransactionStatus) -> Vec<(String, NoticeState)> {
        let context = NoticeContext {
            links: &self.links,
            now_ms: self.now_ms,
        };
        let concern = Concern {
            users: users.iter().map(|user| (*user).into()).collect(),
            transfer: None,
        };
        news(&self.tracker.apply_status(status, &concern, context))
    }
}

fn news(notices: &[Notice]) -> Vec<(String, NoticeState)> {
    let news = notices.iter();
    news.map(|one| (one.user.clone(), one.state)).collect()
}

fn one(user: &str, state: NoticeState) -> Vec<(String, NoticeState)> {
    vec![(user.to_owned(), state)]
}

/// A wallet's update about a transaction.
fn event(
    wallet: Address,
    number: u64,
    transaction: B256,
    direction: Direction,
    state: TransactionState,
) -> ChannelEvent {
    let mut sent = WalletTransaction {
        hash: transaction.to_string(),
        from: format!("{:?}", self::wallet(200)),
        to: Some(format!("{wallet:?}")),
        value: "5".to_owned(),
        block_number: Some(number),
        ..WalletTransaction::default()
    };
    sent.set_direction(direction);
    sent.set_status(state);
    ChannelEvent {
        channel: wallet_channel(&wallet),
        event: Data::WalletUpdate(WalletUpdate {
            address: format!("{wallet:?}"),
            chain: 1,
            data: Some(wallet_update::Data::Transaction(sent)),
            ..WalletUpdate::default()
        }),
    }
}

fn payment(number: u64) -> ChannelEvent {
    let state = TransactionState::Confirming;
    event(wallet(1), number, hash(9), Direction::In, state)
}

fn status(state: TransactionState, at: Option<&BlockData>) -> TransactionStatus {
    let mut status = TransactionStatus {
        chain: 1,
        hash: hash(9).to_string(),
        block_number: at.map(|data| data.block.number),
        block_hash: at.map(|data| data.block.hash.to_string()),
        ..TransactionStatus::default()
    };
    status.set_state(state);
    status
}

use NoticeState::{Confirmed, Failed, Reorged, Replaced};

#[tokio::test]
async fn a_payment_is_notified_once_at_its_depth_and_again_after_a_reorg() {
    let mut world = World::new();
    world.link("ada", 1);
    assert_eq!(world.mine(10, &[payment(10)]).await, []);
    assert_eq!(world.mine(11, &[]).await, []);
    assert_eq!(world.mine(12, &[]).await, one("ada", Confirmed));
    assert_eq!(world.mine(13, &[]).await, []);
    let gone: Vec<_> = (10..=13).rev().map(|number| block(number, 0)).collect();
    let reorg = world.apply(&gone, &block(10, 1), &[], Vec::new()).await;
    assert_eq!(reorg, one("ada", Reorged));
    let events = [payment(11)];
    let included = world.apply(&[], &block(11, 1), &events, Vec::new()).await;
    assert_eq!(included, []);
    assert_eq!(world.apply(&[], &block(12, 1), &[], Vec::new()).await, []);
    let again = world.apply(&[], &block(13, 1), &[], Vec::new()).await;
    assert_eq!(again, one("ada", Confirmed));
    // Blocks beyond the reorg limit are forgotten.
    for number in 14..30 {
        assert_eq!(world.mine(number, &[]).await, []);
    }
    assert_eq!((world.tracker.count, world.tracker.blocks.len()), (0, 0));
}

#[tokio::test]
async fn a_reorg_before_the_depth_is_not_noticed() {
    let mut world = World::new();
    world.link("ada", 1);
    world.mine(10, &[payment(10)]).await;
    let gone = [block(10, 0)];
    let events = [payment(10)];
    for (number, expected) in [(10, vec![]), (11, vec![]), (12, one("ada", Confirmed))] {
        let (gone, events) = match number {
            10 => (&gone[..], &events[..]),
            _ => (&[][..], &[][..]),
        };
        let included = block(number, 1);
        let found = world.apply(gone, &included, events, Vec::new()).await;
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn what_a_stranger_can_cause_for_nothing_notifies_nobody() {
    let mut world = World::new();
    world.link("ada", 1);
    let mut nothing = payment(10);
    let mut suspicious = payment(10);
    if let Data::WalletUpdate(WalletUpdate {
        data: Some(wallet_update::Data::Transaction(sent)),
        ..
    }) = &mut nothing.event
    {
        sent.value = "0".to_owned();
    }
    if let Data::WalletUpdate(update) = &mut suspicious.event {
        update.suspicious = Some("it looks like another one".to_owned());
    }
    let state = TransactionState::Failed;
    let failed = event(wallet(1), 10, hash(9), Direction::In, state);
    world.mine(10, &[nothing, suspicious, failed]).await;
    for number in 11..14 {
        assert_eq!(world.mine(number, &[]).await, []);
    }
    assert_eq!(world.tracker.count, 0);
}

#[tokio::test]
async fn users_are_those_of_the_wallet_at_the_time_of_the_notice() {
    let mut world = World::new();
    for user in ["ada", "bob"] {
        world.link(user, 1);
    }
    // The sender's own payment to another wallet of the same user.
    world.link("bob", 200);
    world.mine(10, &[payment(10)]).await;
    world.link("eve", 1);
    world.links.unlink(wallet(1), &UserId::new("ada"));
    world.mine(11, &[]).await;
    assert_eq!(world.mine(12, &[]).await, one("eve", Confirmed));
    world.links.unlink(wallet(1), &UserId::new("eve"));
    let gone: Vec<_> = (10..=12).rev().map(|number| block(number, 0)).collect();
    let reorg = world.apply(&gone, &block(10, 1), &[], Vec::new()).await;
    assert_eq!(reorg, [], "without a link nothing is notified any more");
}

#[tokio::test]
async fn a_wallet_without_users_has_no_candidates() {
    let mut world = World::new();
    world.mine(10, &[payment(10)]).await;
    assert_eq!(world.tracker.count, 0);
}

#[tokio::test]
async fn a_missing_receipt_delays_the_notice() {
    let mut world = World::new();
    world.link("ada", 1);
    let sent = |state| event(wallet(1), 10, hash(9), Direction::Out, state);
    world.mine(10, &[sent(TransactionState::Unknown)]).await;
    for number in 11..15 {
        assert_eq!(world.mine(number, &[]).await, []);
    }
    let resolved = world.mine(15, &[sent(TransactionState::Failed)]).await;
    assert_eq!(resolved, one("ada", Failed));
    assert_eq!(world.mine(16, &[]).await, []);
}

#[tokio::test]
async fn an_old_block_notifies_no_linked_user() {
    let mut world = World::new();
    world.link("ada", 1);
    world.now_ms = TIME + MAX_AGE_MS + 1;
    world.mine(10, &[payment(10)]).await;
    for number in 11..14 {
        assert_eq!(world.mine(number, &[]).await, []);
    }
    // A back end that asks for it is an exception.
    let at = block(10, 0);
    let notified = world.status(&["ada"], &status(TransactionState::Confirmed, Some(&at)));
    assert_eq!(notified, one("ada", Confirmed));
    // The age is that of the block that confirms, as a confirmation may take long.
    world.now_ms = TIME;
    world.mine(20, &[payment(20)]).await;
    world.now_ms = TIME + MAX_AGE_MS;
    world.mine(21, &[]).await;
    assert_eq!(world.mine(22, &[]).await, one("ada", Confirmed));
}

#[tokio::test]
async fn a_watch_and_a_link_of_one_user_notify_once() {
    let mut world = World::new();
    world.link("ada", 1);
    let state = TransactionState::Confirming;
    let sent = event(wallet(1), 10, hash(9), Direction::Out, state);
    world.mine(10, &[sent]).await;
    let confirming = status(state, Some(&block(10, 0)));
    assert_eq!(world.status(&["ada", "bob"], &confirming), []);
    world.mine(11, &[]).await;
    let notified = world.mine(12, &[]).await;
    let both = [("ada", Confirmed), ("bob", Confirmed)];
    assert_eq!(notified, both.map(|(user, state)| (user.to_owned(), state)));
    let confirmed = status(TransactionState::Confirmed, Some(&block(10, 0)));
    assert_eq!(world.status(&["ada", "bob"], &confirmed), []);
    // A back end that watches for one more user.
    assert_eq!(world.status(&["eve"], &confirmed), one("eve", Confirmed));
    assert_eq!(world.mine(13, &[]).await, []);
}

#[tokio::test]
async fn a_repeated_watch_of_a_final_transaction_notifies_once() {
    let mut world = World::new();
    for number in 100..103 {
        world.mine(number, &[]).await;
    }
    let confirmed = status(TransactionState::Confirmed, Some(&block(10, 0)));
    assert_eq!(world.status(&["ada"], &confirmed), one("ada", Confirmed));
    for number in 103..106 {
        assert_eq!(world.mine(number, &[]).await, []);
        assert_eq!(world.status(&["ada"], &confirmed), []);
    }
    world.now_ms += KEEP_MS;
    world.mine(106, &[]).await;
    assert_eq!(world.tracker.count, 0, "a day later it is forgotten");
}

#[tokio::test]
async fn a_replaced_transaction_is_notified_at_the_depth_of_its_replacement() {
    let mut world = World::new();
    world.mine(10, &[]).await;
    let mut replaced = status(TransactionState::Replaced, None);
    replaced.replaced_by = Some(hash(8).to_string());
    assert_eq!(world.status(&["ada"], &replaced), []);
    world.mine(11, &[]).await;
    assert_eq!(world.status(&["ada"], &replaced), []);
    assert_eq!(world.mine(12, &[]).await, one("ada", Replaced));
    assert_eq!(world.status(&["ada"], &replaced), []);
    let gone: Vec<_> = (10..=12).rev().map(|number| block(number, 0)).collect();
    let reorg = world.apply(&gone, &block(10, 1), &[], Vec::new()).await;
    assert_eq!(reorg, one("ada", Reorged));
    let dropped = status(TransactionState::Dropped, None);
    let notified = world.status(&["ada"], &dropped);
    assert_eq!(notified, one("ada", NoticeState::Dropped));
}

#[tokio::test]
async fn an_unwatched_transaction_notifies_nobody() {
    let mut world = World::new();
    world.mine(10, &[]).await;
    let confirming = status(TransactionState::Confirming, Some(&block(10, 0)));
    world.status(&["ada"], &confirming);
    world.tracker.unwatch(&hash(9));
    for number in 11..14 {
        assert_eq!(world.mine(number, &[]).await, []);
    }
}

#[tokio::test]
async fn after_a_resync_nothing_is_notified_twice_or_unproven() {
    let mut world = World::new();
    world.link("ada", 1);
    world.mine(10, &[]).await;
    let confirmed = status(TransactionState::Confirmed, Some(&block(10, 0)));
    world.status(&["bob"], &confirmed);
    world.mine(11, &[]).await;
    assert_eq!(world.mine(12, &[payment(12)]).await, one("bob", Confirmed));
    world.tracker.resync();
    assert_eq!(world.mine(500, &[]).await, []);
    assert_eq!(world.status(&["bob"], &confirmed), []);
    assert_eq!(world.mine(501, &[]).await, []);
}

fn token_payment(token: u8, value: u64) -> TokenPayment {
    TokenPayment {
        wallet: wallet(1),
        token: wallet(token),
        hash: hash(9),
        from: wallet(200),
        value: U256::from(value),
        symbol: Some("CLAIM-AT.EXAMPLE".to_owned()),
        decimals: Some(2),
    }
}

#[tokio::test]
async fn tokens_that_are_not_listed_are_bounded_and_not_named() {
    let mut world = World::with_listed(&[wallet(100)]);
    world.link("ada", 1);
    let mut payments: Vec<_> = (0..50).map(|token| token_payment(token, 5)).collect();
    payments.extend([token_payment(100, 5), token_payment(100, 6)]);
    let update = |number| ChainUpdate {
        chain: 1,
        retracted: Vec::new(),
        included: block(number, 0),
        finalized: None,
    };
    let context = NoticeContext {
        links: &world.links,
        now_ms: TIME,
    };
    let tracker = &mut world.tracker;
    tracker.apply(&update(10), &[], payments, context);
    assert_eq!(tracker.count, MAX_UNLISTED_IN_BLOCK + 1);
    tracker.apply(&update(11), &[], Vec::new(), context);
    let notices = tracker.apply(&update(12), &[], Vec::new(), context);
    let mut kinds: HashMap<bool, Vec<&Notice>> = HashMap::new();
    for notice in &notices {
        let is_listed = notice.facts.token.as_ref().unwrap().is_listed;
        kinds.entry(is_listed).or_default().push(notice);
    }
    let unlisted = &kinds[&false];
    assert_eq!(unlisted.len(), 10);
    for notice in unlisted {
        assert_eq!(notice.grouping, Grouping::Grouped);
        assert_eq!(notice.facts.token.as_ref().unwrap().symbol, None);
    }
    let [listed] = kinds[&true][..] else {
        panic!("{notices:?}");
    };
    assert_eq!(listed.grouping, Grouping::Single);
    assert_eq!(listed.facts.value, Some(U256::from(11)));
    assert!(listed.facts.token.as_ref().unwrap().symbol.is_some());
}

#[test]
fn candidates_are_bounded() {
    let mut world = World::new();
    world.link("ada", 1);
    let state = TransactionState::Confirming;
    for number in 10..12 {
        let events = (0..MAX_CANDIDATES - 10).map(|index| {
            let hash = B256::left_padding_from(&index.to_be_bytes());
            event(wallet(1), number, hash, Direction::Out, state)
        });
        let update = ChainUpdate {
            chain: 1,
            retracted: Vec::new(),
            included: block(number, 0),
            finalized: None,
        };
        let context = NoticeContext {
            links: &world.links,
            now_ms: TIME,
        };
        let events: Vec<_> = events.collect();
        world.tracker.apply(&update, &events, Vec::new(), context);
    }
    assert_eq!(world.tracker.count, MAX_CANDIDATES - 10);
    assert_eq!(world.tracker.blocks.len(), 1);
}

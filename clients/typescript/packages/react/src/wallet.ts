/** Wallet hook: pending transactions, recent activity and balance changes of addresses. */
import type { BalanceChange, ChannelMessage, History, HistoryItem, WalletTransaction, WalletUpdate } from "@tidewire/client";
import { useMemo } from "react";
import { stateSource, type Value } from "./follow.ts";
import { type Names, useSelection } from "./selection.ts";
import type { Source } from "./live.ts";
import { useSources } from "./session.ts";

/** Updates of a wallet that are kept: enough for a list, and few enough for a wallet of an exchange. */
const MAX_UPDATES = 200;

/** An update of a wallet, and whether it is an old one. */
export type WalletActivity = WalletUpdate & {
  /** Whether it comes from the history or was replayed after a lost connection, so that toasts can skip it. */
  readonly replayed: boolean;
};

/** Fields of an update that are the same for each of its types. */
export type WalletMeta = Pick<WalletActivity, "address" | "chain" | "timestamp" | "suspicious" | "replayed">;

/** Wallets as components see them, each list newest first. What a reorg took back is in none of them. */
export interface WalletUpdates {
  /** Transactions that are in no block yet. */
  readonly pendingTxs: readonly (WalletTransaction & WalletMeta)[];
  /** Everything that happened, each transaction once, with its newest state. */
  readonly recentActivity: readonly WalletActivity[];
  /** Changes of balances, as exact decimal strings in the smallest unit. */
  readonly balanceChanges: readonly (BalanceChange & WalletMeta)[];
  /** Adds addresses to this component's. */
  readonly subscribe: (addresses: Names) => void;
  /** Removes addresses from this component's, also those that the hook was called with. */
  readonly unsubscribe: (addresses: Names) => void;
}

/** The updates that hold, oldest first, by what they are about. */
type Updates = ReadonlyMap<string, WalletActivity>;

const NONE: Updates = new Map();

/** Returns the updates with a newer one: a transaction in its newest state, and nothing that was taken back. */
function add(updates: Updates, message: ChannelMessage | HistoryItem, replayed: boolean): Updates {
  if (message.type !== "wallet_update") {
    return updates;
  }
  const update = message.data as WalletUpdate;
  const { type, chain, data, removed } = update;
  const next = new Map(updates);
  // A reorg sends an update again, unchanged but for `removed`.
  const id = JSON.stringify([chain, type, type === "transaction" ? data.hash : data]);
  next.delete(id);
  if (!removed) {
    next.set(id, { ...update, replayed });
  }
  for (const oldest of next.keys()) {
    if (next.size > MAX_UPDATES) {
      next.delete(oldest);
    }
  }
  return next;
}

function walletSource(address: string): Source<Value<Updates>> {
  const channel = `wallet:${address.toLowerCase()}`;
  return stateSource<Updates, History>(
    channel,
    NONE,
    (client) => ({
      _channel: channel,
      _isReported: true,
      _load: () => client.request("history", { channel, limit: MAX_UPDATES }),
      _onPage: ({ messages }) => messages.reduce((all, item) => add(all, item, true), NONE),
      _next: (updates, message) => add(updates, message, !!message.replayed),
    }),
    NONE,
  );
}

const flat = <Data>({ data, ...meta }: WalletMeta & { readonly data: Data }): Data & WalletMeta => ({ ...meta, ...data });

/** Follows wallets on all chains. The component renders at most once a frame. */
export function useWalletUpdates(addresses: Names = []): WalletUpdates {
  const [sources, subscribe, unsubscribe] = useSelection(addresses, walletSource);
  const wallets = useSources(sources);
  return useMemo(() => {
    const recentActivity = wallets.flatMap(({ data = NONE }) => [...data.values()].reverse()).sort((a, b) => b.timestamp - a.timestamp);
    return {
      pendingTxs: recentActivity.flatMap((update) => (update.type === "transaction" && update.data.status === "pending" ? [flat(update)] : [])),
      recentActivity,
      balanceChanges: recentActivity.flatMap((update) => (update.type === "balance" ? [flat(update)] : [])),
      subscribe,
      unsubscribe,
    };
  }, [wallets, subscribe, unsubscribe]);
}

/**
 * Wallet hook: pending transactions, recent activity and balance changes of addresses.
 *
 * The state of a wallet is the newest publications of its channel, ordered by `seq`. The history is
 * read after the subscription began, so a publication may arrive twice: by `seq` it counts once.
 */
import type { BalanceChange, ChannelMessage, HistoryItem, WalletTransaction, WalletUpdate } from "@tidewire/client";
import { useMemo } from "react";
import { onConnected } from "./connected.ts";
import type { Live } from "./live.ts";
import { useSources } from "./many.ts";
import { type Names, useSelection } from "./selection.ts";
import type { Source } from "./session.ts";

/** Publications of a wallet that are kept: enough for a list, and few enough for a wallet of an exchange. */
const MAX_UPDATES = 200;

/** Where and when a change of a wallet was seen. */
export interface WalletMeta {
  readonly address: string;
  readonly chain: number;
  /** Milliseconds since the Unix epoch. */
  readonly timestamp: number;
  /** Whether it happened before the component saw it: from the history, or replayed after a lost connection. */
  readonly replayed: boolean;
}

/** An update, and whether it is an old one. */
export type WalletActivity = WalletUpdate & Pick<WalletMeta, "replayed">;

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

/** Publications by `seq`. */
type Updates = ReadonlyMap<number, WalletActivity>;

const NONE: Updates = new Map();

function walletSource(address: string): Source<Updates> {
  const channel = `wallet:${address.toLowerCase()}`;
  return {
    key: channel,
    initial: NONE,
    start(client, live) {
      // Counts readings and the end, so that a late reply changes nothing.
      let reading = 0;
      let isLoaded = false;
      const load = (): void => {
        const own = (reading += 1);
        client.request("history", { channel, limit: MAX_UPDATES }).then(
          ({ messages }) => {
            if (own === reading) {
              isLoaded = true;
              add(live, messages.filter(isWalletItem).map(({ seq, data }) => [seq, data, true]));
            }
          },
          () => {
            // Refused like the subscription, which reports it; or the connection is lost, and the next one reads again.
          },
        );
      };
      const unsubscribe = client.subscribe(channel, (message: ChannelMessage) => {
        if (message.type === "wallet_update" && message.seq !== undefined) {
          add(live, [[message.seq, message.data, message.replayed === true]]);
        } else if (message.type === "gap") {
          // What is shown may have been taken back meanwhile.
          live.set(NONE);
          load();
        }
      });
      const end = onConnected(client, () => {
        // Later connections replay what was missed, or say `gap`.
        if (!isLoaded) {
          load();
        }
      });
      return () => {
        reading += 1;
        unsubscribe();
        end();
      };
    },
  };
}

type WalletItem = HistoryItem & { readonly data: WalletUpdate };

function isWalletItem(item: HistoryItem): item is WalletItem {
  return item.type === "wallet_update";
}

/** Adds publications, of which the live ones win, and drops the oldest beyond the bound. */
function add(live: Live<Updates>, updates: readonly (readonly [number, WalletUpdate, boolean])[]): void {
  const merged = new Map(live.next);
  for (const [seq, update, replayed] of updates) {
    if (!merged.has(seq)) {
      merged.set(seq, { ...update, replayed });
    }
  }
  live.set(new Map([...merged].sort(([a], [b]) => a - b).slice(-MAX_UPDATES)));
}

/** The updates that still hold, newest first: a transaction in its newest state, and nothing that was taken back. */
function activityOf(updates: Updates): WalletActivity[] {
  const current = new Map<string, WalletActivity>();
  for (const update of updates.values()) {
    const { type, chain, data, removed } = update;
    // A reorg sends an update again, unchanged but for `removed`.
    const id = `${type} ${chain} ${type === "transaction" ? data.hash : JSON.stringify(data)}`;
    current.delete(id);
    if (removed !== true) {
      current.set(id, update);
    }
  }
  return [...current.values()].reverse();
}

/** Follows wallets on all chains. The component renders at most once a frame. */
export function useWalletUpdates(addresses: Names | undefined): WalletUpdates {
  const { names, subscribe, unsubscribe } = useSelection(addresses ?? []);
  const wallets = useSources(names, walletSource);
  return useMemo(() => {
    const recentActivity = wallets.flatMap(activityOf).sort((a, b) => b.timestamp - a.timestamp);
    const pendingTxs: (WalletTransaction & WalletMeta)[] = [];
    const balanceChanges: (BalanceChange & WalletMeta)[] = [];
    for (const update of recentActivity) {
      const { address, chain, timestamp, replayed } = update;
      if (update.type === "balance") {
        balanceChanges.push({ ...update.data, address, chain, timestamp, replayed });
      } else if (update.type === "transaction" && update.data.status === "pending") {
        pendingTxs.push({ ...update.data, address, chain, timestamp, replayed });
      }
    }
    return { pendingTxs, recentActivity, balanceChanges, subscribe, unsubscribe };
  }, [wallets, subscribe, unsubscribe]);
}

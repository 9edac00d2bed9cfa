/** Transaction hook: the state of a transaction on its way into a final block. */
import type { TidewireError, TransactionStatus } from "@tidewire/client";
import { useMemo } from "react";
import { follow } from "./follow.ts";
import type { Source } from "./session.ts";
import { NOTHING, useValue, type Value } from "./value.ts";

/** The state of a transaction. */
export interface Transaction {
  readonly transaction: TransactionStatus | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

/** Reads the transaction's state from the chain, and follows its channel. */
function transactionSource(txHash: string, chain: number): Source<Value<TransactionStatus>> {
  const channel = `tx:${chain}:${txHash.toLowerCase()}`;
  return {
    key: channel,
    initial: NOTHING,
    start(client, show) {
      let data: TransactionStatus | undefined;
      const set = (next: object, error?: TidewireError): void => {
        // A reply and a push may overtake each other.
        if ("timestamp" in next && (next as TransactionStatus).timestamp >= (data?.timestamp ?? 0)) {
          data = next as TransactionStatus;
        }
        const value = { data, error };
        show(() => value);
      };
      return follow(client, {
        channelOf: () => channel,
        reset: () => undefined,
        load: () => client.request("watch", { chain, txHash }),
        onPage: (status) => {
          set(status);
        },
        onError: (error) => {
          set({}, error);
        },
        onMessage: (message) => {
          if (message.type === "transaction") {
            set(message.data);
          }
          return true;
        },
      });
    },
  };
}

/** Follows a transaction. Without a `hash` it waits for one. */
export function useTransaction(hash: string | undefined, chain: number): Transaction {
  const { data: transaction, loading, error } = useValue(useMemo(() => (hash ? [transactionSource(hash, chain)] : []), [hash, chain]));
  return { transaction, loading, error };
}

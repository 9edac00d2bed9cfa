/** Payments: publishes each step of a payment's transaction to `payments:{user}`, until it is final. */
import { type GrpcWatchEvent, publish, transactionEvents, watchTransaction } from "./grpc.ts";

/** A payment that a user made by a transaction. */
export interface Payment {
  readonly order: string;
  readonly user: string;
  readonly chain: number;
  readonly hash: string;
}

const FINAL = new Set(["finalized", "failed", "replaced", "cancelled", "dropped"]);
/** Pause in milliseconds after a broken stream. */
const RETRY_MS = 1_000;

/**
 * Starts to follow a payment. The server stores the watch and notifies the user of the outcome, even
 * if this process ends. Returns when the watch is stored; `done` resolves with the final state.
 */
export async function followPayment(payment: Payment): Promise<{ done: Promise<string> }> {
  await watchTransaction(payment.chain, payment.hash, payment.user);
  return { done: publishStates(payment) };
}

async function publishStates({ order, user, chain, hash }: Payment): Promise<string> {
  let position: { epoch: string; seq: string } | undefined;
  for (;;) {
    try {
      for await (const event of transactionEvents(chain, hash, position)) {
        const { epoch, seq, transaction } = event as GrpcWatchEvent;
        if (transaction !== undefined) {
          const state = transaction.state.replace("TRANSACTION_STATE_", "").toLowerCase();
          const { confirmations, required, reason } = transaction;
          // The key makes a step that is published again, after a broken stream, one publication.
          // An order may be paid by another transaction after one that failed. The state of now, which comes first, has no seq.
          const key = [order, hash, epoch, seq ?? "", state, confirmations].join(":");
          await publish(`payments:${user}`, { order, hash, state, confirmations, required, ...(reason !== undefined && { reason }) }, key);
          if (FINAL.has(state)) {
            return state;
          }
        }
        // Not before it is published: a step that failed is read again.
        position = seq === undefined ? position : { epoch, seq };
      }
    } catch (error) {
      console.error(`payment ${order}:`, error);
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

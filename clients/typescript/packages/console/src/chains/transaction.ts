/** Transactions: what their states mean, the way of one through them, and what a person may paste. */
import type { TransactionStatus } from "@tidewire/client";
import type { Tone } from "../ui/chip.tsx";

/** A word for a state, and a sentence. */
export interface StateText {
  readonly word: string;
  readonly tone: Tone;
  readonly text: string;
}

const STATES: Readonly<Record<string, StateText>> = {
  unknown: { word: "Not seen yet", tone: "plain", text: "No node has this hash. The server searches for it and shows it as soon as one has." },
  pending: { word: "Pending", tone: "plain", text: "The transaction waits in the mempool. No block includes it yet." },
  confirming: { word: "Confirming", tone: "plain", text: "A block includes it. Each further block is a confirmation." },
  confirmed: { word: "Confirmed", tone: "up", text: "It has the required confirmations. A reorg could still undo it." },
  finalized: { word: "Finalized", tone: "up", text: "No reorg can undo it any more." },
  failed: { word: "Failed", tone: "bad", text: "A block includes it, but it reverted: it changed nothing and cost gas." },
  replaced: { word: "Replaced", tone: "warn", text: "Another transaction of the sender used its nonce. This one will never be included." },
  cancelled: { word: "Cancelled", tone: "warn", text: "The sender replaced it by a transaction that does nothing." },
  dropped: { word: "Dropped", tone: "bad", text: "No node has it any more. If it is sent again, the server finds it again." },
};

/** Explains a state. A state of a newer server is shown as it is. */
export function stateText(state: string): StateText {
  return STATES[state] ?? { word: state, tone: "plain", text: "This page does not know the state yet." };
}

/** Explains the state of a transaction. That no node has answered is a fault of the nodes, and says nothing of the hash. */
export function statusText({ state, reason }: Pick<TransactionStatus, "state" | "reason">): StateText {
  const isUnanswered = state === "unknown" && reason?.startsWith("no node has answered") === true;
  return isUnanswered ? { word: "No answer", tone: "bad", text: "No node of this chain answers, so nothing is known of the hash. The server asks again until one does." } : stateText(state);
}

/** The stations of a transaction that goes well. */
export const STATIONS = ["pending", "confirming", "confirmed", "finalized"] as const;

/** The index of the station that a state has reached. −1: none, also where it left the way. */
export function stationOf(state: string): number {
  return STATIONS.indexOf(state as (typeof STATIONS)[number]);
}

/** Whether nothing more follows, as long as nobody sends it again. */
export function isFinal({ state }: TransactionStatus): boolean {
  return ["finalized", "failed", "replaced", "cancelled", "dropped"].includes(state);
}

/** A step of a transaction: a state, and the newest figures that it had. */
export interface Step {
  readonly status: TransactionStatus;
  /** When the state began. */
  readonly since: number;
}

/** Returns the steps of a transaction, oldest first: repetitions of a state are one step. */
export function stepsOf(statuses: readonly TransactionStatus[]): readonly Step[] {
  const steps: Step[] = [];
  for (const status of statuses) {
    const last = steps.at(-1);
    if (last?.status.state === status.state && (status.reorged ?? false) === (last.status.reorged ?? false)) {
      steps[steps.length - 1] = { status, since: last.since };
    } else {
      steps.push({ status, since: status.timestamp });
    }
  }
  return steps;
}

/** What a step says beyond its state. */
export function stepNote({ state, confirmations, required, blockNumber, reason, reorged, replacedBy }: TransactionStatus): string {
  const notes = [
    reorged ? "a reorg took it out of its block" : "",
    blockNumber === undefined ? "" : `block ${blockNumber.toLocaleString("en-US")}`,
    state === "confirming" ? `${confirmations} of ${required} confirmations` : state === "confirmed" ? `${confirmations} confirmations` : "",
    state === "unknown" ? "" : (reason ?? ""),
    replacedBy === undefined ? "" : `by ${short(replacedBy)}`,
  ];
  return notes.filter((note) => note !== "").join(" · ");
}

/** Says since when a transaction is searched for: the server's reason ends in the time, as RFC 3339. */
export function reasonText(reason: string, timeOfDay: (timestamp: number) => string): string {
  return reason.replace(/looking since (\S+Z)$/, (text, time: string) => (Number.isNaN(Date.parse(time)) ? text : `searched for since ${timeOfDay(Date.parse(time))}`));
}

/** Shortens a hash or an address. */
export function short(hex: string): string {
  return hex.length > 18 ? `${hex.slice(0, 10)}…${hex.slice(-4)}` : hex;
}

/** Reads what was pasted: a hash alone, or the hash of an explorer's URL. Returns why it is none. */
export function pastedHash(text: string): { readonly hash: string } | { readonly fault: string } {
  return pasted(text, { digits: 64, noun: "hash", name: "a transaction's hash" }, { digits: 40, place: "This is an address: paste it into the field of the wallet." });
}

/** Reads a pasted address, or that of an explorer's URL. */
export function pastedAddress(text: string): { readonly hash: string } | { readonly fault: string } {
  return pasted(text, { digits: 40, noun: "address", name: "an address" }, { digits: 64, place: "This is a hash: paste it into the field of the transaction." });
}

interface Wanted {
  readonly digits: number;
  readonly noun: string;
  readonly name: string;
}

/** Finds what is wanted in a text. `other` is what belongs into another field, and where. */
function pasted(text: string, { digits, noun, name }: Wanted, other: { readonly digits: number; readonly place: string }): { readonly hash: string } | { readonly fault: string } {
  const find = (count: number): string | undefined => new RegExp(`(?<![0-9a-z])0x([0-9a-f]{${count}})(?![0-9a-z])`, "i").exec(text)?.[0];
  const found = find(digits);
  if (found !== undefined) {
    return { hash: found.toLowerCase() };
  }
  if (find(other.digits) !== undefined) {
    return { fault: other.place };
  }
  if (text.trim() === "") {
    return { fault: `Paste ${name}: 0x and ${digits} digits.` };
  }
  const length = /0x([0-9a-f]+)/i.exec(text)?.[1]?.length;
  return { fault: length === undefined ? `This is no ${noun}: expected 0x and ${digits} digits of 0 to 9 and a to f.` : `This ${noun} has ${length} digits, expected ${digits}.` };
}

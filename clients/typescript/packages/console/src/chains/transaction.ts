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
  return pasted(text, 64, "hash", "a transaction's hash");
}

/** Reads a pasted address, or that of an explorer's URL. */
export function pastedAddress(text: string): { readonly hash: string } | { readonly fault: string } {
  return pasted(text, 40, "address", "an address");
}

function pasted(text: string, digits: number, noun: string, name: string): { readonly hash: string } | { readonly fault: string } {
  const found = new RegExp(`(?<![0-9a-z])0x([0-9a-f]{${digits}})(?![0-9a-z])`, "i").exec(text)?.[0];
  if (found !== undefined) {
    return { hash: found.toLowerCase() };
  }
  if (text.trim() === "") {
    return { fault: `Paste ${name}: 0x and ${digits} digits.` };
  }
  const length = /0x([0-9a-f]+)/i.exec(text)?.[1]?.length;
  return { fault: length === undefined ? `This is no ${noun}: expected 0x and ${digits} digits of 0 to 9 and a to f.` : `This ${noun} has ${length} digits, expected ${digits}.` };
}

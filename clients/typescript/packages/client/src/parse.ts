/** Reads what the server says: text in, a typed message or the reason why not. */
import { isRecord } from "./checks/check.ts";
import { serverData, sourceList } from "./checks/server.ts";
import type { ServerMessage, ServerType } from "./messages.ts";
import type { PriceSource, PriceUpdate } from "./types/price.ts";

/** What a text frame turned out to be. */
export type Parsed =
  | { readonly kind: "message"; readonly message: ServerMessage }
  /** Well formed, of a type that this client does not know: the protocol grew. */
  | { readonly kind: "unknown"; readonly type: string }
  | { readonly kind: "invalid"; readonly reason: string };

/**
 * Reads one text frame.
 *
 * Numbers are JavaScript numbers: exact decimals keep 15 significant digits,
 * and sequence numbers are exact up to 2⁵³.
 */
export function parseServerMessage(frame: string): Parsed {
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return invalid("the frame is not JSON");
  }
  return checkServerMessage(value);
}

/** Checks an already parsed frame. */
export function checkServerMessage(value: unknown): Parsed {
  if (!isRecord(value)) {
    return invalid("the message is no JSON object");
  }
  const { type } = value;
  if (typeof type !== "string") {
    return invalid("`type` is missing, expected the type of the message");
  }
  if (!isServerType(type)) {
    return { kind: "unknown", type };
  }
  const fault = envelopeFault(value) ?? dataFault(type, value["data"]);
  if (fault !== undefined) {
    return invalid(`${type}: ${fault}`);
  }
  // The checks above saw every field that the type names.
  return { kind: "message", message: value as unknown as ServerMessage };
}

/** Is it the answer of `PriceService/ListSources`? */
export function isSourceList(value: unknown): value is { readonly sources: readonly PriceSource[] } {
  return sourceList(value) === undefined;
}

/** Is it the answer of `PriceService/GetPrice`? */
export function isPriceUpdate(value: unknown): value is PriceUpdate {
  return serverData.price(value) === undefined;
}

function isServerType(type: string): type is ServerType {
  return Object.hasOwn(serverData, type);
}

function envelopeFault(message: Readonly<Record<string, unknown>>): string | undefined {
  const { id, channel, seq, timestamp } = message;
  if (id !== undefined && typeof id !== "string") {
    return "`id` is no string";
  }
  if (channel !== undefined && typeof channel !== "string") {
    return "`channel` is no string";
  }
  if (seq !== undefined && !(Number.isInteger(seq) && Number(seq) >= 0)) {
    return "`seq` is no whole number from 0 up";
  }
  if (timestamp !== undefined && !Number.isInteger(timestamp)) {
    return "`timestamp` is no whole number";
  }
  return undefined;
}

function dataFault(type: ServerType, data: unknown): string | undefined {
  const fault = serverData[type](data);
  if (fault === undefined) {
    return undefined;
  }
  return fault.startsWith(".") || fault.startsWith("[") ? `data${fault}` : `data: ${fault}`;
}

function invalid(reason: string): Parsed {
  return { kind: "invalid", reason };
}

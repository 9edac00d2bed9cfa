/** Message parser: turns a text frame into a typed server message, or names the fault. */
import { isRecord } from "./checks/check.ts";
import { serverData, sourceList } from "./checks/server.ts";
import type { ServerMessage, ServerType } from "./messages.ts";
import type { PriceUpdate, SourceList } from "./types/price.ts";

/** The result of parsing a frame. */
export type ParseResult =
  | { readonly kind: "message"; readonly message: ServerMessage }
  /** Well formed, of a type that this client does not know: the server is newer. */
  | { readonly kind: "unknown"; readonly type: string }
  | { readonly kind: "invalid"; readonly reason: string };

/**
 * Parses one text frame.
 *
 * Numbers become JavaScript numbers: decimals keep 15 significant digits, and
 * sequence numbers are exact up to 2⁵³.
 */
export function parseServerMessage(frame: string): ParseResult {
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return invalid("the frame is not JSON");
  }
  return checkServerMessage(value);
}

/**
 * Parses one text frame, for the option `parse` of a client. A type that this
 * client does not know passes. Throws an `Error` that names the fault.
 */
export function parseChecked(frame: string): unknown {
  const value: unknown = JSON.parse(frame);
  const result = checkServerMessage(value);
  if (result.kind === "invalid") {
    throw new TypeError(result.reason);
  }
  return value;
}

/** Checks a frame that is already parsed JSON. */
export function checkServerMessage(value: unknown): ParseResult {
  if (!isRecord(value)) {
    return invalid("the message is not a JSON object");
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
  // The checks above cover every field of the type.
  return { kind: "message", message: value as unknown as ServerMessage };
}

/** Returns whether `value` is a response of `PriceService/ListSources`. */
export function isSourceList(value: unknown): value is SourceList {
  return sourceList(value) === undefined;
}

/** Returns whether `value` is a response of `PriceService/GetPrice`. */
export function isPriceUpdate(value: unknown): value is PriceUpdate {
  return serverData.price(value) === undefined;
}

function isServerType(type: string): type is ServerType {
  return Object.hasOwn(serverData, type);
}

function envelopeFault(message: Readonly<Record<string, unknown>>): string | undefined {
  const { id, channel, seq, timestamp } = message;
  if (id !== undefined && typeof id !== "string") {
    return "`id` is not a string";
  }
  if (channel !== undefined && typeof channel !== "string") {
    return "`channel` is not a string";
  }
  if (seq !== undefined && !(Number.isInteger(seq) && Number(seq) >= 0)) {
    return "`seq` is not a whole number from 0 up";
  }
  if (timestamp !== undefined && !Number.isInteger(timestamp)) {
    return "`timestamp` is not a whole number";
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

function invalid(reason: string): ParseResult {
  return { kind: "invalid", reason };
}

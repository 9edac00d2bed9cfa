/** Exact numbers, as `@tidewire/client/exact`: the digits of a message as the wire has them, which a JavaScript number would round. */
import { frames } from "./frames.ts";
import type { Json } from "./types/common.ts";
import type { ServerMessage } from "./messages.ts";

/** A JSON text's strings, which stay, and its numbers, which become strings. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

/** The same document with each number as the text of its digits. */
export type Exact<Data> = Data extends number
  ? string
  : Data extends string | boolean | null | undefined
    ? Data
    : { readonly [Key in keyof Data]: Exact<Data[Key]> };

/**
 * Returns the `data` of a message with every number as the string of its exact
 * decimal digits: `exact(message).price` is `"0.1000000000000000055"`. Returns
 * `undefined` for a message that no client received.
 */
export function exact<Message extends Pick<ServerMessage, "data">>(message: Message): Exact<Message["data"]> | undefined {
  const frame = frames.get(message);
  if (!frame) {
    return undefined;
  }
  const text = frame.replace(TOKEN, (token) => (token.startsWith('"') ? token : `"${token}"`));
  const { type, data } = JSON.parse(text) as { type: string; data: { updates: { [key: string]: Json }[] } };
  const { symbol, source } = message.data as { symbol?: string; source?: string };
  // A batch has each symbol of a source once.
  const found = type === "price_batch" && symbol !== undefined ? data.updates.find((update) => update["symbol"] === symbol && update["source"] === source) : data;
  return found as Exact<Message["data"]>;
}

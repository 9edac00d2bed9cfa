/** Frames: the text that each message came in, for `@tidewire/client/exact`. */

/** Entries go with their messages. */
export const frames: WeakMap<object, string> = new WeakMap();

/** Remembers that `message` came in a text, or in the same text as another message. Returns it. */
export function keepFrame<Message extends object>(message: Message, frame: string | object): Message {
  frames.set(message, typeof frame === "string" ? frame : (frames.get(frame) ?? ""));
  return message;
}

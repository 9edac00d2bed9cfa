/** Wire: the text of the frame that a client is handling, for pages that show it byte for byte. */

let last = "";

/** Parses a frame, and remembers its text while it is handled: the option `parse` of a client. */
export function parseFrame(frame: string): unknown {
  last = frame;
  return JSON.parse(frame);
}

/** The text of the newest frame. */
export function frameText(): string {
  return last;
}

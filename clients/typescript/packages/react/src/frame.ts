/**
 * Frame scheduler: gathers changes and commits them once an animation frame.
 *
 * React renders once for all changes of one task. A burst of 5,000 updates a second
 * therefore costs one commit a frame, however many components show them.
 */

/** Longest wait for a frame, in milliseconds: a hidden page paints none. */
const HIDDEN_MS = 250;
/** Wait in milliseconds where there are no frames, such as in Node. */
const FRAME_MS = 16;

/** Returns a function that calls `commit` in the next frame, once however often it is requested until then. */
export function frames(): (commit: () => void) => void {
  let waiting = new Set<() => void>();
  return (commit) => {
    waiting.add(commit);
    if (waiting.size > 1) {
      return;
    }
    const hasFrames = typeof requestAnimationFrame === "function";
    const run = (): void => {
      clearTimeout(timer);
      if (hasFrames) {
        cancelAnimationFrame(frame);
      }
      const commits = waiting;
      waiting = new Set();
      for (const each of commits) {
        each();
      }
    };
    const timer = setTimeout(run, hasFrames ? HIDDEN_MS : FRAME_MS);
    const frame = hasFrames ? requestAnimationFrame(run) : 0;
  };
}

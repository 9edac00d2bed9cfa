/**
 * Frame scheduler: gathers changes and commits them once an animation frame.
 *
 * React renders once for all changes of one task. A burst of 5,000 updates a second
 * therefore costs one commit a frame, however many components show them.
 */

/** Longest wait for a frame, in milliseconds: a hidden page paints none, and Node has none. */
const LONGEST_MS = 100;

/** Returns a function that calls `commit` in the next frame, once however often it is requested until then. */
export function frames(): (commit: () => void) => void {
  const waiting = new Set<() => void>();
  return (commit) => {
    if (waiting.size === 0) {
      const run = (): void => {
        clearTimeout(timer);
        const commits = [...waiting];
        waiting.clear();
        for (const each of commits) {
          each();
        }
      };
      const timer = setTimeout(run, LONGEST_MS);
      (globalThis as { requestAnimationFrame?: (run: () => void) => void }).requestAnimationFrame?.(run);
    }
    waiting.add(commit);
  };
}

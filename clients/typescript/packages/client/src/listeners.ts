/** Listener calls: one listener's exception never reaches the client or the other listeners. */

/** Calls `listener`. The runtime reports its exception as an unhandled error. */
export function callSafely<Event>(listener: (event: Event) => void, event: Event): void {
  try {
    listener(event);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Calls into the application. */

/** Calls `listener`; what it throws is reported as an unhandled error, and keeps nobody else from hearing. */
export function callSafely<Event>(listener: (event: Event) => void, event: Event): void {
  try {
    listener(event);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Subscribing: gathers the channels of one microtask in one `subscribe`, and those without handlers in one `unsubscribe`. */
import type { Clock } from "./environment.ts";
import type { StartRequest } from "./requests.ts";
import type { Subscriber, Subscription, Subscriptions } from "./subscriptions.ts";

/** Channels in one `subscribe` or `unsubscribe`, so that its frame stays far below the server's usual limit. */
const CHANNELS_PER_FRAME = 100;
/** A channel without handlers stays subscribed so long: the next component may want it. */
const LINGER_MS = 100;
/** The time between two values of a latest channel when data is to be saved. */
const SAVE_DATA_MS = 5_000;

/**
 * Opens `[subscribeSoon, flush, remove, cut]`: `subscribeSoon` waits for the end of
 * the microtask, `flush` sends what waits at once, `remove` takes a handler away. `cut`: a frame
 * with so many channels was too large. Returns whether the next ones are smaller.
 */
export function openSubscribing(
  clock: Clock,
  has: Subscriptions[2],
  drop: Subscriptions[4],
  start: StartRequest,
  isOpen: () => boolean,
  linkNow: () => number,
  isWebSocket: () => boolean,
  savesData: () => boolean | undefined,
): [
  subscribeSoon: (all: readonly Subscription[]) => void,
  flush: () => void,
  remove: (subscription: Subscription, subscriber: Subscriber) => void,
  cut: (channels: number) => boolean,
] {
  let perFrame = CHANNELS_PER_FRAME;
  const unsent = new Set<Subscription>();
  const leaving = new Set<Subscription>();

  const subscribeSoon = (all: readonly Subscription[]): void => {
    queueMicrotask(flush);
    for (const subscription of all) {
      unsent.add(subscription);
    }
  };
  const flush = (): void => {
    const all = [...unsent];
    unsent.clear();
    // Without a connection they wait for the next one, which subscribes to everything.
    while (all.length && isOpen()) {
      send(all.splice(0, perFrame));
    }
  };
  const send = (all: readonly Subscription[]): void => {
    const mine = linkNow();
    start("subscribe", { channels: all.map((subscription) => subscription._start(isWebSocket())) }, (error, reply) => {
      // After a loss, or over the link before this one: the next connection subscribes to everything again.
      for (const [index, subscription] of mine === linkNow() ? all.entries() : []) {
        // The results come in the order of the request.
        const result = reply?.channels[index];
        if (result && has(subscription)) {
          subscription._finish(result);
          // The server has said whether it is a latest channel.
          if (savesData() && subscription._slowDown(SAVE_DATA_MS)) {
            subscribeSoon([subscription]);
          }
        } else if (error) {
          subscription._refuse(error);
        }
      }
    });
  };
  const remove = (subscription: Subscription, subscriber: Subscriber): void => {
    const { _subscribers: subscribers } = subscription;
    if (!subscribers.delete(subscriber) || subscribers.size) {
      return;
    }
    if (unsent.delete(subscription) || !isOpen()) {
      drop(subscription);
      return;
    }
    if (!leaving.size) {
      clock.after(LINGER_MS, () => {
        const gone = [...leaving].filter((left) => drop(left) && !left._isRefused());
        leaving.clear();
        while (gone.length) {
          start("unsubscribe", { channels: gone.splice(0, perFrame).map((left) => left._canonical()) });
        }
      });
    }
    leaving.add(subscription);
  };
  return [
    subscribeSoon,
    flush,
    remove,
    (channels) => channels > 1 && channels <= perFrame && !!(perFrame = channels >> 1),
  ];
}

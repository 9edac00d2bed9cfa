/** Subscribing: gathers the channels of one microtask in one `subscribe`, and those without handlers in one `unsubscribe`. */
import type { Clock, Timer } from "./environment.ts";
import type { StartRequest } from "./requests.ts";
import type { Subscriber, Subscription, Subscriptions } from "./subscriptions.ts";

/** Channels in one `subscribe` or `unsubscribe`, so that its frame stays far below the server's usual limit. */
const CHANNELS_PER_FRAME = 100;
/** A channel without handlers stays subscribed so long: the next component may want it. */
const LINGER_MS = 100;
/** The time until a channel is requested again that a proxy refused, where it names none. */
const RETRY_MS = 5_000;
/** The time between two values of a latest channel when data is to be saved. */
const SAVE_DATA_MS = 5_000;

/**
 * Opens `[subscribeSoon, flush, remove, cut, cancel]`: `subscribeSoon` waits for the end of
 * the microtask, `flush` sends what waits at once, `remove` takes a handler away. `cut`: a frame
 * with so many channels was too large. Returns whether the next ones are smaller. `cancel`: the link is lost, and
 * what was refused for a while is not asked again on it.
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
  cancel: () => void,
] {
  let perFrame = CHANNELS_PER_FRAME;
  const unsent = new Set<Subscription>();
  const leaving = new Set<Subscription>();
  /** The link on which each was requested last: the server knows it there. */
  const requested = new WeakMap<Subscription, number>();
  /** The waits for what was refused for a while. */
  const waits = new Set<Timer>();

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
    for (const subscription of all) {
      requested.set(subscription, mine);
    }
    start("subscribe", { channels: all.map((subscription) => subscription._start(isWebSocket())) }, (error, reply) => {
      const again = new Map<number, Subscription[]>();
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
        const ms = subscription._isRefused()?.retryAfterMs ?? (error?.code === "unavailable" ? RETRY_MS : 0);
        if (ms) {
          again.set(ms, [...(again.get(ms) ?? []), subscription]);
        }
      }
      for (const [ms, refused] of again) {
        const wait = clock.after(ms, () => {
          waits.delete(wait);
          subscribeSoon(refused.filter((one) => has(one) && one._subscribers.size && one._isRefused()));
        });
        waits.add(wait);
      }
    });
  };
  const remove = (subscription: Subscription, subscriber: Subscriber): void => {
    const { _subscribers: subscribers } = subscription;
    if (!subscribers.delete(subscriber) || subscribers.size) {
      return;
    }
    if (!isOpen() || (unsent.has(subscription) && requested.get(subscription) !== linkNow())) {
      unsent.delete(subscription);
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
    () => {
      waits.forEach((wait) => {
        wait.cancel();
      });
      waits.clear();
    },
  ];
}

/** Alerts hook: the user's rules, the newest times that they fired, and changes to them. */
import { type AlertDraft, type AlertEvent, type AlertRule, TidewireError, type WebSocketClient } from "@tidewire/client";
import { useRefusal } from "./connection.ts";
import { follow } from "./follow.ts";
import type { Show } from "./live.ts";
import { notStarted } from "./notifications.ts";
import { type Source, useSource } from "./session.ts";

/** Rules that are loaded, and fires that are kept. */
const MAX_ITEMS = 100;

/** A fire, and whether it is an old one. */
export type AlertFire = AlertEvent & {
  /** Whether it was loaded or replayed after a lost connection, so that toasts and sounds can skip it. */
  readonly replayed: boolean;
};

/** The user's alerts. */
export interface Alerts {
  /** The rules, oldest first, 100 at most. */
  readonly alerts: readonly AlertRule[];
  /** The newest fires, newest first, 100 at most. One that a reorg took back has `retracted`. */
  readonly fires: readonly AlertFire[];
  readonly loading: boolean;
  /** Why there are no alerts, for example because no user is signed in. */
  readonly error: TidewireError | undefined;
  /** Registers a rule. Rejects with the fault of the rule. */
  readonly register: (rule: AlertDraft) => Promise<AlertRule>;
  /** Changes a rule. */
  readonly update: (rule: AlertDraft & { readonly id: string }) => Promise<AlertRule>;
  /** Deletes a rule. */
  readonly remove: (id: string) => Promise<void>;
}

const INITIAL: Alerts = { alerts: [], fires: [], loading: true, error: undefined, register: notStarted, update: notStarted, remove: notStarted };

/** Returns the fires with a newer one. A retraction replaces what it takes back. */
function withFire(fires: readonly AlertFire[], fire: AlertFire): readonly AlertFire[] {
  const others = fires.filter(({ id }) => !id || id !== fire.id);
  return [fire, ...others].sort((a, b) => b.timestamp - a.timestamp).slice(0, MAX_ITEMS);
}

function start(client: WebSocketClient, show: Show<Alerts>): () => void {
  let current = INITIAL;
  const set = (change: Partial<Alerts>): void => {
    current = { ...current, ...change };
    show(() => current);
  };
  /** Shows a rule. A fire holds its rule as it was then, perhaps older than the one that is shown. */
  const put = (rule: AlertRule): AlertRule => {
    const { alerts } = current;
    const old = alerts.find(({ id }) => id === rule.id);
    if (!old) {
      set({ alerts: [...alerts, rule] });
    } else if ((rule.version ?? 0) >= (old.version ?? 0)) {
      set({ alerts: alerts.map((each) => (each === old ? rule : each)) });
    }
    return rule;
  };
  set({
    register: (rule) => client.request("alert_register", rule).then(put),
    update: (rule) => client.request("alert_update", rule).then(put),
    remove: (id) =>
      client.request("alert_delete", { id }).then(() => {
        set({ alerts: current.alerts.filter((rule) => rule.id !== id) });
      }),
  });
  return follow(client, {
    _reset: (channel) => {
      const error = channel ? undefined : new TidewireError({ code: "unauthenticated", message: "no user is signed in" });
      set({ alerts: [], fires: [], loading: !error, error });
    },
    _load: () => Promise.all([client.request("alerts", { limit: MAX_ITEMS }), client.request("alert_log", { limit: MAX_ITEMS })]),
    _onPage: ([{ items: alerts }, { items }]) => {
      // A fire that came meanwhile may be missing in the log.
      const loaded = items.map((item) => ({ ...item, replayed: true }));
      set({ alerts, fires: current.fires.reduceRight(withFire, loaded), loading: false, error: undefined });
    },
    onError: (error) => {
      set({ loading: false, error });
    },
    _onMessage: ({ type, data, replayed = false }) => {
      if (type === "alert") {
        const { rule } = data;
        set({ fires: withFire(current.fires, { ...data, replayed }) });
        // A deleted rule may still fire once: it does not come back.
        if (rule && current.alerts.some(({ id }) => id === rule.id)) {
          put(rule);
        }
      }
      return true;
    },
  });
}

const ALERTS: readonly [Source<Alerts>] = [{ _key: "alerts", _initial: INITIAL, _start: start }];

/** The user's alerts. */
export function useAlerts(): Alerts {
  const alerts = useSource(ALERTS);
  const refusal = useRefusal();
  return refusal ? { ...alerts, loading: false, error: refusal } : alerts;
}

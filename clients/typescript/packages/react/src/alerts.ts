/** Alerts hook: the user's rules, the newest times that they fired, and changes to them. */
import type { AlertDraft, AlertEvent, AlertLog, AlertPage, AlertRule, TidewireError } from "@tidewire/client";
import { stateSource, type Value } from "./follow.ts";
import { notStarted } from "./notifications.ts";
import type { Source } from "./live.ts";
import { useValue } from "./value.ts";

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

/** The rules and fires. */
type State = Pick<Alerts, "alerts" | "fires">;

const NONE: State = { alerts: [], fires: [] };

/** What components have of it. */
type Shown = Omit<Alerts, "loading" | "error">;

/** Returns the fires with a newer one. A retraction replaces what it takes back. */
function withFire(fires: readonly AlertFire[], fire: AlertFire): readonly AlertFire[] {
  const others = fires.filter(({ id }) => !id || id !== fire.id);
  return [fire, ...others].sort((a, b) => b.timestamp - a.timestamp).slice(0, MAX_ITEMS);
}

/** Returns the state with a rule. A fire holds its rule as it was then, perhaps older than the one that is shown. */
function withRule(state: State, rule: AlertRule): State {
  const old = state.alerts.find(({ id }) => id === rule.id);
  return { ...state, alerts: old ? state.alerts.map((each) => (each === old && (rule.version ?? 0) >= (old.version ?? 0) ? rule : each)) : [...state.alerts, rule] };
}

const ALERTS: readonly [Source<Value<Shown>>] = [
  /* @__PURE__ */ stateSource<State, readonly [AlertPage, AlertLog], Shown>(
    "alerts",
    NONE,
    (client, change) => {
      const put = (rule: AlertRule): AlertRule => {
        change((state) => withRule(state, rule));
        return rule;
      };
      const actions = {
        register: (rule: AlertDraft) => client.request("alert_register", rule).then(put),
        update: (rule: AlertDraft & { readonly id: string }) => client.request("alert_update", rule).then(put),
        remove: (id: string) =>
          client.request("alert_delete", { id }).then(() => {
            change((state) => ({ ...state, alerts: state.alerts.filter((rule) => rule.id !== id) }));
          }),
      };
      return {
        _load: () => Promise.all([client.request("alerts", { limit: MAX_ITEMS }), client.request("alert_log", { limit: MAX_ITEMS })]),
        _onPage: ([{ items: alerts }, { items }], { fires }) => ({
          alerts,
          // A fire that came meanwhile may be missing in the log.
          fires: fires.reduceRight(
            withFire,
            items.map((item) => ({ ...item, replayed: true })),
          ),
        }),
        _next(state, { type, data, replayed = false }) {
          if (type !== "alert") {
            return state;
          }
          const { rule } = data;
          const next = { ...state, fires: withFire(state.fires, { ...data, replayed }) };
          // A deleted rule may still fire once: it does not come back.
          return rule && state.alerts.some(({ id }) => id === rule.id) ? withRule(next, rule) : next;
        },
        _view: (state) => ({ ...state, ...actions }),
      };
    },
    { ...NONE, register: notStarted, update: notStarted, remove: notStarted },
  ),
];

/** The user's alerts. */
export function useAlerts(): Alerts {
  const { data, loading, error } = useValue(ALERTS);
  return { ...data, loading, error } as Alerts;
}

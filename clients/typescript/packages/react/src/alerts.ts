/** Alerts hook: the user's rules, the newest times that they fired, and changes to them. */
import { type AlertDraft, type AlertEvent, type AlertRule, TidewireError, type WebSocketClient } from "@tidewire/client";
import { useMemo } from "react";
import { REFUSAL } from "./connection.ts";
import type { Live } from "./live.ts";
import { type Source, useSession, useSource } from "./session.ts";
import { followUser } from "./user.ts";

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

type View = Pick<Alerts, "alerts" | "fires" | "loading" | "error"> & {
  /** Shows a rule that the server accepted, once the work runs. */
  readonly put?: (rule: AlertRule) => void;
  readonly drop?: (id: string) => void;
};

const ALERTS: Source<View> = { key: "alerts", initial: { alerts: [], fires: [], loading: true, error: undefined }, start: follow };

/** Returns the rules with a newer version of one of them. */
function withRule(alerts: readonly AlertRule[], rule: AlertRule): readonly AlertRule[] {
  const old = alerts.find(({ id }) => id === rule.id);
  if (old === undefined) {
    return [...alerts, rule];
  }
  // A fire holds the rule as it was then.
  return (rule.version ?? 0) < (old.version ?? 0) ? alerts : alerts.map((each) => (each === old ? rule : each));
}

/** Returns the fires with a newer one. A retraction replaces what it takes back. */
function withFire(fires: readonly AlertFire[], fire: AlertFire): readonly AlertFire[] {
  const others = fires.filter(({ id }) => id === undefined || id !== fire.id);
  return [fire, ...others].sort((a, b) => b.timestamp - a.timestamp).slice(0, MAX_ITEMS);
}

function follow(client: WebSocketClient, live: Live<View>): () => void {
  let generation = 0;
  const set = (change: Partial<View>): void => {
    live.set({ ...live.next, ...change });
  };
  const read = (): void => {
    const own = (generation += 1);
    Promise.all([client.request("alerts", { limit: MAX_ITEMS }), client.request("alert_log", { limit: MAX_ITEMS })]).then(
      ([{ items: alerts }, { items }]) => {
        if (own === generation) {
          // A fire that came meanwhile may be missing in the log.
          const loaded = items.map((item) => ({ ...item, replayed: true }));
          const fires = [...live.next.fires].reverse().reduce(withFire, loaded);
          set({ alerts, fires, loading: false, error: undefined });
        }
      },
      (error: unknown) => {
        if (own === generation && client.state.status === "connected") {
          set({ loading: false, error: error as TidewireError });
        }
      },
    );
  };
  const end = followUser(client, {
    onUser: (userId) => {
      generation += 1;
      const error = userId === undefined ? new TidewireError({ code: "unauthenticated", message: "no user is signed in: alerts need a token" }) : undefined;
      set({ alerts: [], fires: [], loading: error === undefined, error });
    },
    onReady: read,
    onMessage: (message) => {
      if (message.type === "alert") {
        const { rule } = message.data;
        const { alerts, fires } = live.next;
        // A deleted rule may still fire once: it does not come back.
        const isListed = rule !== undefined && alerts.some(({ id }) => id === rule.id);
        set({ fires: withFire(fires, { ...message.data, replayed: message.replayed === true }), ...(isListed && { alerts: withRule(alerts, rule) }) });
      } else if (message.type === "gap") {
        read();
      }
    },
  });
  set({
    put: (rule) => {
      set({ alerts: withRule(live.next.alerts, rule) });
    },
    drop: (id) => {
      set({ alerts: live.next.alerts.filter((rule) => rule.id !== id) });
    },
  });
  return () => {
    generation += 1;
    end();
  };
}

/** The user's alerts. */
export function useAlerts(): Alerts {
  const session = useSession();
  const view = useSource(ALERTS, ALERTS.initial);
  const refusal = useSource(REFUSAL, undefined);
  const actions = useMemo(() => {
    const current = (): View => session.values.read(ALERTS.key, ALERTS.initial);
    const shown = (rule: AlertRule): AlertRule => {
      current().put?.(rule);
      return rule;
    };
    return {
      register: (rule: AlertDraft) => session.client.request("alert_register", rule).then(shown),
      update: (rule: AlertDraft & { readonly id: string }) => session.client.request("alert_update", rule).then(shown),
      remove: (id: string) =>
        session.client.request("alert_delete", { id }).then(() => {
          current().drop?.(id);
        }),
    };
  }, [session]);
  return useMemo(() => {
    const { alerts, fires, loading, error = refusal } = view;
    return { alerts, fires, loading: loading && error === undefined, error, ...actions };
  }, [view, refusal, actions]);
}

import type { AlertEvent, AlertRule, ServerMessage } from "@tidewire/client";
import type { ReactElement } from "react";
import { beforeEach, describe, expect, it } from "vitest";
import { type Alerts, useAlerts } from "./index.ts";
import { Application, fakeTime } from "./testing/harness.tsx";

beforeEach(fakeTime);

const rule = (id: string, rest: Partial<AlertRule> = {}): AlertRule => ({
  id,
  condition: { kind: "price_above", symbol: "BTC-USD", threshold: 1 },
  enabled: true,
  state: "armed",
  version: 1,
  ...rest,
});
const fire = (id: string, timestamp: number, rest: Partial<AlertEvent> = {}): AlertEvent => ({ id, alertId: "a", value: 1, previous: 0, sources: [], timestamp, ...rest });
const push = (seq: number, data: AlertEvent): ServerMessage => ({ type: "alert", channel: "user:ada", seq, data });

describe("useAlerts", () => {
  let last: Alerts | undefined;
  function Show(): ReactElement {
    last = useAlerts();
    const { alerts, fires, loading, error } = last;
    return <>{error?.message ?? (loading ? "loading" : `${alerts.map(({ id, state }) => `${id}:${state}`).join(" ")} | ${fires.map(({ id }) => String(id)).join(" ")}`)}</>;
  }
  async function alerts(user: string | undefined = "ada"): Promise<Application> {
    const app = new Application();
    app.answers["alerts"] = () => ({ type: "alerts", data: { items: [rule("a"), rule("b")] } });
    app.answers["alert_log"] = () => ({ type: "alert_log", data: { items: [fire("f1", 1)] } });
    app.render(<Show />);
    expect(app.text).toBe("loading");
    await app.welcome(user);
    return app;
  }

  it("lists rules and fires, and shows each fire with the new state of its rule", async () => {
    const app = await alerts();
    expect(app.text).toBe("a:armed b:armed | f1");
    app.push(push(1, fire("f2", 2, { rule: rule("a", { state: "cooldown" }) })));
    // Of a rule that was deleted meanwhile.
    app.push(push(2, fire("f3", 3, { alertId: "z", rule: rule("z") })));
    await app.idle();
    expect(app.text).toBe("a:cooldown b:armed | f3 f2 f1");
    expect(last?.fires.map(({ replayed }) => replayed)).toEqual([false, false, true]);
    app.unmount();
  });

  it("a retraction replaces the fire that it takes back", async () => {
    const app = await alerts();
    app.push(push(1, fire("f1", 4, { retracted: true })));
    await app.idle();
    expect(app.text).toBe("a:armed b:armed | f1");
    expect(last?.fires[0]?.retracted).toBe(true);
    app.unmount();
  });

  it("registers, changes and deletes rules, and rejects with the fault of a rule", async () => {
    const app = await alerts();
    app.answers["alert_register"] = () => ({ type: "alert_registered", data: rule("c") });
    app.answers["alert_update"] = () => ({ type: "alert_updated", data: rule("c", { state: "disabled", version: 2 }) });
    app.answers["alert_delete"] = () => ({ type: "alert_deleted", data: { id: "a" } });
    const registered = last?.register({ condition: rule("c").condition });
    await app.idle();
    expect((await registered)?.id).toBe("c");
    await app.idle();
    expect(app.text).toBe("a:armed b:armed c:armed | f1");
    const updated = last?.update({ id: "c", condition: rule("c").condition, enabled: false });
    const removed = last?.remove("a");
    await app.idle();
    await Promise.all([updated, removed]);
    await app.idle();
    expect(app.text).toBe("b:armed c:disabled | f1");
    app.answers["alert_register"] = () => ({ type: "error", data: { code: "invalid_argument", message: "`threshold` is negative" } });
    const refused = last?.register({ condition: rule("d").condition });
    const expectation = expect(refused).rejects.toThrow("`threshold` is negative");
    await app.idle();
    await expectation;
    app.unmount();
  });

  it("says that a user is needed", async () => {
    const app = await alerts("");
    app.unmount();
    const anonymous = new Application();
    anonymous.render(<Show />);
    await anonymous.welcome();
    expect(anonymous.text).toContain("no user is signed in");
    anonymous.unmount();
  });
});

import { type AlertRule, WebSocketClient } from "@tidewire/client";
import { FakeEnvironment, settle } from "@tidewire/client/testing";
import { expect, test } from "vitest";
import { type BookView, EMPTY_BOOK, openBook } from "./book.ts";

const rule = (id: string, change: Partial<AlertRule> = {}): AlertRule => ({ id, condition: { kind: "gas_above", chain: 1, gwei: 1 }, enabled: true, state: "armed", ...change });
const fire = (id: string, timestamp: number, change: object = {}) => ({ id, alertId: "a", value: 1, previous: null, sources: [], timestamp, ...change });

async function opened() {
  const fake = new FakeEnvironment();
  const client = new WebSocketClient("ws://test", { environment: fake.environment, token: "a.b.c" });
  const shown: { view: BookView } = { view: EMPTY_BOOK };
  client.connect();
  await settle();
  const book = openBook(client, (view) => {
    shown.view = view;
  });
  fake.socket.welcome([{ channel: "user:ada", epoch: "e", seq: 0 }]);
  await settle();
  const reply = async (request: "alerts" | "alert_log" | "alert_update" | "alert_register" | "alert_delete", type: string, data: object) => {
    fake.socket.receive({ type, id: fake.socket.last(request).id, data } as never);
    await settle();
  };
  return { fake, book, shown, reply };
}

test("all pages of rules are read, newest first, and the newest fires", async () => {
  const { fake, shown, reply } = await opened();
  await reply("alerts", "alerts", { items: [rule("a")], next: "a" });
  expect(fake.socket.last("alerts").data).toEqual({ limit: 200, after: "a" });
  expect(shown.view.rules).toBeUndefined();
  await reply("alerts", "alerts", { items: [rule("b")] });
  await reply("alert_log", "alert_log", { items: [fire("f2", 2), fire("f1", 1)], next: "f1" });
  expect(shown.view.rules?.map(({ id }) => id)).toEqual(["b", "a"]);
  expect(shown.view).toMatchObject({ fires: [{ id: "f2" }, { id: "f1" }], next: "f1" });
});

test("a fire shows at once and reads the states, and a retraction replaces it", async () => {
  const { fake, shown, reply } = await opened();
  await reply("alerts", "alerts", { items: [rule("a")] });
  await reply("alert_log", "alert_log", { items: [] });
  fake.socket.receive({ type: "alert", channel: "user:ada", seq: 1, data: fire("f1", 5) });
  await reply("alerts", "alerts", { items: [rule("a", { state: "cooldown" })] });
  expect(shown.view).toMatchObject({ fires: [{ id: "f1" }], rules: [{ state: "cooldown" }] });
  fake.socket.receive({ type: "alert", channel: "user:ada", seq: 2, data: fire("f1", 5, { retracted: true }) });
  expect(shown.view.fires).toMatchObject([{ id: "f1", retracted: true }]);
});

test("a rule is created, changed and deleted, and a refusal rejects", async () => {
  const { fake, book, shown, reply } = await opened();
  await reply("alerts", "alerts", { items: [] });
  const saved = book.save({ condition: rule("").condition });
  await reply("alert_register", "alert_registered", rule("n"));
  expect((await saved).id).toBe("n");
  const changed = book.change("n", { enabled: false });
  expect(fake.socket.last("alert_update").data).toEqual({ id: "n", enabled: false });
  await reply("alert_update", "alert_updated", rule("n", { enabled: false, state: "disabled" }));
  await changed;
  expect(shown.view.rules).toMatchObject([{ id: "n", state: "disabled" }]);
  const refused = book.change("n", { cooldownMs: -1 });
  fake.socket.receive({ type: "error", id: fake.socket.last("alert_update").id, data: { code: "invalid_argument", message: "`cooldownMs`: -1" } });
  await expect(refused).rejects.toMatchObject({ message: "`cooldownMs`: -1" });
  const removed = book.remove("n");
  await reply("alert_delete", "alert_deleted", { id: "n" });
  await removed;
  expect(shown.view.rules).toEqual([]);
});

test("a refused list says why, and a closed book shows nothing more", async () => {
  const { fake, book, shown, reply } = await opened();
  fake.socket.receive({ type: "error", id: fake.socket.last("alerts").id, data: { code: "unavailable", message: "alerts are disabled" } });
  await settle();
  expect(shown.view.error?.message).toBe("alerts are disabled");
  book.close();
  await reply("alert_log", "alert_log", { items: [fire("f", 1)] });
  expect(shown.view.fires).toEqual([]);
});

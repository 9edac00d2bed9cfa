/** The reconnection manager on its own: the example of the README runs, in a page with sockets that a test ends. */
import { readFileSync } from "node:fs";
import { runInNewContext } from "node:vm";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ReconnectionManager, shouldReconnect } from "../src/reconnection-manager.ts";

const README = readFileSync(new URL("../README.md", import.meta.url), "utf8");
const EXAMPLE = /^import \{ ReconnectionManager.*\n([^]*?)```/m.exec(README)?.[1] ?? "";

/** A socket of the example. */
class Socket {
  static readonly CLOSED = 3;
  static opened: Socket[] = [];
  readyState = 0;
  onopen: (() => void) | undefined;
  onclose: ((event: { readonly code: number }) => void) | undefined;

  constructor() {
    Socket.opened.push(this);
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  end(code: number): void {
    this.readyState = Socket.CLOSED;
    this.onclose?.({ code });
  }
}

const newest = (): Socket => Socket.opened.at(-1) ?? new Socket();
const count = (): number => Socket.opened.length;

describe("the reconnection manager", () => {
  let page: EventTarget;
  const document = { hidden: false };
  const change = (isHidden: boolean): void => {
    document.hidden = isHidden;
    page.dispatchEvent(new Event("visibilitychange"));
  };

  beforeEach(() => {
    vi.useFakeTimers();
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    page = new EventTarget();
    vi.stubGlobal("document", document);
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    Socket.opened = [];
    document.hidden = false;
  });
  afterEach(() => {
    vi.useRealTimers();
    vi.restoreAllMocks();
    vi.unstubAllGlobals();
  });

  const runExample = (): void => {
    runInNewContext(EXAMPLE, { ReconnectionManager, shouldReconnect, WebSocket: Socket });
  };

  it("plans attempts in the README's example, each with twice the delay", () => {
    runExample();
    newest().open();
    for (const delayMs of [125, 250, 500]) {
      newest().end(1006);
      vi.advanceTimersByTime(delayMs - 1);
      const before = count();
      vi.advanceTimersByTime(1);
      expect(count()).toBe(before + 1);
    }
  });

  it("connects at once when the page is shown, and opens no second connection beside a good one", () => {
    runExample();
    newest().open();
    change(true);
    change(false);
    vi.advanceTimersByTime(60_000);
    expect(count()).toBe(1);
    newest().end(1013);
    change(true);
    change(false);
    vi.advanceTimersByTime(1);
    expect(count()).toBe(2);
    // The attempt is under way.
    change(true);
    change(false);
    vi.advanceTimersByTime(60_000);
    expect(count()).toBe(2);
  });

  it("does not connect again after a refusal, whatever the page does", () => {
    runExample();
    newest().end(4500);
    change(true);
    change(false);
    vi.advanceTimersByTime(60_000);
    expect(count()).toBe(1);
  });

  it("takes a clock, a page and random numbers of a test", () => {
    const onRetry = vi.fn();
    const manager = new ReconnectionManager({ random: () => 0.1, page: { isVisible: () => false, onChange: () => vi.fn() } }, onRetry);
    manager.start();
    expect([manager.isVisible, manager.schedule(1006), manager.attempt]).toEqual([false, 25, 1]);
    manager.onPing(40);
    manager.onPing(undefined);
    expect(manager.getQuality(true)).toMatchObject({ rttMs: 40, loss: 0.5, grade: "fair" });
    vi.advanceTimersByTime(25);
    expect(onRetry).toHaveBeenCalledOnce();
  });
});

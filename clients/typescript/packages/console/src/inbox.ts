/**
 * Inbox card: signs a user in with a token, and shows the user's notifications live.
 *
 * It has a connection of its own. On the page's other connection the token would take rights
 * away: on loopback, requests without a token may do more.
 */
import { type NotificationPage, type ServerData, WebSocketClient } from "@tidewire/client";
import { copyButtons } from "./copy.ts";
import { byId, draw, setText } from "./dom.ts";
import { count } from "./format.ts";
import { InboxRows } from "./inbox-rows.ts";
import { type InboxMessage, InboxState, MAX_ITEMS } from "./inbox-state.ts";

/** Notifications of one page. */
const PAGE_ITEMS = 20;
/** Delay in milliseconds before the list is loaded again, so that a burst of changes loads it once. */
const RELOAD_MS = 250;
/** Messages that arrive while a page is loaded, at most. After more, the page is loaded again. */
const MAX_MEANWHILE = 1_000;
/** Key of the tab's storage. The token survives a reload and ends with the tab. */
const TOKEN_KEY = "tidewire.token";
/** The channel of a user is `user:{id}`. */
const USER_PREFIX = "user:";
const TITLE = document.title;

/** A signed-in user. It ends with the sign-out, so that late replies change nothing. */
interface Session {
  readonly client: WebSocketClient;
  readonly state: InboxState;
  user: string | undefined;
  /** Whether the list was loaded once, and is shown. */
  isLoaded: boolean;
  /** Whether the list must be loaded from its newest page, now or on the next connection. */
  isStale: boolean;
  /** The pushes since the request for a page, while one is in flight. They are applied to the page too. */
  meanwhile: InboxMessage[] | undefined;
  reloadTimer: number | undefined;
}

/** The "Inbox" card of the page. */
export class Inbox {
  readonly #url: string;
  readonly #card = byId("inbox", HTMLElement);
  readonly #token = byId("token", HTMLInputElement);
  readonly #note = byId("inbox-note", HTMLElement);
  readonly #list = byId("notifications", HTMLElement);
  readonly #older = byId("older", HTMLButtonElement);
  readonly #readAll = byId("read-all", HTMLButtonElement);
  readonly #rows: InboxRows;
  #session: Session | undefined;
  readonly #paint = (): void => {
    this.#draw();
  };

  constructor(url: string) {
    this.#url = url;
    this.#rows = new InboxRows(this.#list, {
      markRead: (id) => {
        this.#change("read", (client) => client.request("mark_read", { ids: [id] }));
      },
      dismiss: (id) => {
        this.#change("dismissed", (client) => client.request("dismiss", { ids: [id] }));
      },
    });
    byId("sign-in", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#signIn(this.#token.value.trim().replace(/^Bearer\s+/i, ""));
    });
    byId("sign-out", HTMLButtonElement).addEventListener("click", () => {
      this.#signOut("");
      this.#token.focus();
    });
    this.#readAll.addEventListener("click", () => {
      this.#markAllRead();
    });
    this.#older.addEventListener("click", () => {
      const session = this.#session;
      if (session !== undefined) {
        void this.#load(session, session.isLoaded ? session.state.next : undefined);
      }
    });
    byId("inbox-copy", HTMLElement).append(
      copyButtons("a notification to this user", () => ({
        kind: "call",
        method: "NotifyService/Notify",
        body: { user: this.#session?.user ?? "", notification: { type: "system_announcement", title: "Hello" } },
      })),
    );
    const token = sessionStorage.getItem(TOKEN_KEY);
    if (token !== null) {
      this.#signIn(token);
    }
    this.#draw();
  }

  /** Updates what depends on the time. */
  tick(): void {
    const session = this.#session;
    if (session !== undefined) {
      const now = serverTime(session.client);
      if (session.state.expire(now)) {
        draw(this.#paint);
      } else {
        this.#rows.tick(now);
      }
    }
  }

  // ---------------------------------------------------------------- session

  #signIn(token: string): void {
    this.#signOut("");
    if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) {
      setText(this.#note, "This is no token: expected three parts of letters and digits, separated by dots.");
      return;
    }
    sessionStorage.setItem(TOKEN_KEY, token);
    const client = new WebSocketClient(this.#url, { token });
    const session: Session = { client, state: new InboxState(), user: undefined, isLoaded: false, isStale: true, meanwhile: undefined, reloadTimer: undefined };
    this.#session = session;
    let lastError = "";
    client.on("error", ({ message }) => {
      lastError = message;
    });
    client.on("state", (state) => {
      if (this.#session !== session) {
        return;
      }
      if (state.status === "connected") {
        this.#onLive(session, state.welcome.subscriptions);
      } else if (state.status === "closed") {
        this.#signOut(`Signed out: ${lastError !== "" ? lastError : state.end.reason}.`);
      }
      draw(this.#paint);
    });
    client.connect();
    draw(this.#paint);
  }

  #signOut(note: string): void {
    const session = this.#session;
    this.#session = undefined;
    sessionStorage.removeItem(TOKEN_KEY);
    this.#token.value = "";
    if (session !== undefined) {
      clearTimeout(session.reloadTimer);
      session.client.disconnect();
    }
    setText(this.#note, note);
    draw(this.#paint);
  }

  /** Starts to follow the user's channel, once. Later connections resume it by themselves. */
  #onLive(session: Session, subscriptions: readonly { readonly channel: string }[]): void {
    if (session.user === undefined) {
      const own = subscriptions.find(({ channel }) => channel.startsWith(USER_PREFIX));
      if (own === undefined) {
        this.#signOut("The server opened no inbox for this token.");
        return;
      }
      session.user = own.channel.slice(USER_PREFIX.length);
      const onError = (error: Error): void => {
        this.#fail(session, error);
      };
      const onMessage = (message: InboxMessage): void => {
        this.#onMessage(session, message);
      };
      session.client.subscribe(own.channel, onMessage, { onError });
    }
    if (session.isStale) {
      void this.#load(session, undefined);
    }
  }

  #onMessage(session: Session, message: InboxMessage): void {
    if (session.meanwhile !== undefined && session.meanwhile.length <= MAX_MEANWHILE) {
      session.meanwhile.push(message);
    }
    if (session.state.apply(message) === "reload") {
      this.#reloadSoon(session);
    }
    draw(this.#paint);
  }

  // ---------------------------------------------------------------- requests

  /** Loads the page before `before`, or the newest one in place of the list. */
  async #load(session: Session, before: string | undefined): Promise<void> {
    const { client, state } = session;
    if (session.meanwhile !== undefined) {
      this.#reloadSoon(session);
      return;
    }
    const meanwhile: InboxMessage[] = [];
    session.meanwhile = meanwhile;
    const limit = before === undefined ? Math.max(PAGE_ITEMS, state.items.length) : PAGE_ITEMS;
    let page: NotificationPage;
    try {
      page = await client.request("notifications", { limit, ...(before !== undefined && { before }) });
    } catch (error) {
      this.#fail(session, error);
      return;
    } finally {
      session.meanwhile = undefined;
    }
    if (before === undefined) {
      state.replace(page);
      session.isLoaded = true;
      session.isStale = false;
    } else if (state.next === before) {
      state.append(page);
    }
    setText(this.#note, "");
    const effects = meanwhile.slice(0, MAX_MEANWHILE).map((message) => state.apply(message));
    if (effects.includes("reload") || meanwhile.length > MAX_MEANWHILE) {
      this.#reloadSoon(session);
    }
    draw(this.#paint);
  }

  #reloadSoon(session: Session): void {
    session.isStale = true;
    session.reloadTimer ??= setTimeout(() => {
      session.reloadTimer = undefined;
      if (this.#session === session) {
        void this.#load(session, undefined);
      }
    }, RELOAD_MS);
  }

  /** Sends a change. Its reply is applied as the push of the same name, which other connections get. */
  #change<Type extends "read" | "dismissed">(type: Type, send: (client: WebSocketClient) => Promise<ServerData[Type]>): void {
    const session = this.#session;
    if (session === undefined) {
      return;
    }
    send(session.client).then(
      (data) => {
        setText(this.#note, "");
        this.#onMessage(session, { type, data } as InboxMessage);
      },
      (error: unknown) => {
        this.#fail(session, error);
      },
    );
  }

  /** Marks what is listed: a notification that the user has not seen yet stays unread. */
  #markAllRead(): void {
    const upTo = this.#session?.state.items[0]?.id;
    if (upTo !== undefined && this.#session?.state.unreadCount !== 0) {
      this.#change("read", (client) => client.request("mark_all_read", { upTo }));
    }
  }

  #fail(session: Session, error: unknown): void {
    if (this.#session === session) {
      setText(this.#note, error instanceof Error ? error.message : String(error));
      draw(this.#paint);
    }
  }

  // ---------------------------------------------------------------- page

  #draw(): void {
    const session = this.#session;
    const { items, next, unreadCount } = session?.state ?? { items: [], next: undefined, unreadCount: 0 };
    const isLoaded = session?.isLoaded === true;
    this.#card.dataset["session"] = session === undefined ? "none" : session.client.state.status;
    byId("sign-in", HTMLFormElement).hidden = session !== undefined;
    byId("signed-in", HTMLElement).hidden = session === undefined;
    byId("inbox-copy", HTMLElement).hidden = session?.user === undefined;
    setText(byId("user", HTMLElement), session?.user ?? "…");
    const unread = isLoaded ? `${String(unreadCount)} unread` : "";
    for (const id of ["inbox-badge", "link-badge"]) {
      const badge = byId(id, HTMLElement);
      setText(badge, unread);
      badge.hidden = unread === "";
      badge.classList.toggle("some", unreadCount > 0);
    }
    setText(byId("inbox-status", HTMLElement), isLoaded ? count(unreadCount, "unread notification") : "");
    document.title = unreadCount > 0 ? `(${String(unreadCount)}) ${TITLE}` : TITLE;
    this.#readAll.setAttribute("aria-disabled", String(unreadCount === 0));
    byId("inbox-empty", HTMLElement).hidden = !isLoaded || items.length > 0;
    this.#rows.draw(items, session === undefined ? 0 : serverTime(session.client));
    setText(this.#older, isLoaded ? "Show older" : "Load again");
    this.#older.hidden = isLoaded ? next === undefined || items.length >= MAX_ITEMS : session?.user === undefined || this.#note.textContent === "";
  }
}

/** The server's time in milliseconds since the Unix epoch. */
function serverTime(client: WebSocketClient): number {
  return Date.now() + client.clockOffsetMs;
}

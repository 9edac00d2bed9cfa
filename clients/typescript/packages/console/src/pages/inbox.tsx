/** Inbox page: the notifications of the user who signed in, live, with filters and pages. */
import type { Notification } from "@tidewire/client";
import { type ReactElement, useEffect, useLayoutEffect, useRef } from "react";
import { currentInbox, inboxView } from "../inbox/current.ts";
import { MAX_ITEMS } from "../inbox/state.ts";
import { useNow } from "../lib/clock.ts";
import { age, count, timeAndDay } from "../lib/format.ts";
import { signOut, useSession } from "../lib/session.ts";
import { useStore } from "../lib/store.ts";
import { SignInCard } from "../shell/account.tsx";
import { Card, PageHead } from "../ui/card.tsx";
import { Chip } from "../ui/chip.tsx";
import { Empty, Loading, OldMark } from "../ui/state.tsx";
import "./inbox.css";

/** The types that a server has by itself; `[notifications] types` may add others. */
const TYPES = ["price_alert", "transaction_confirmed", "transaction_failed", "subscription_renewal", "payment_received", "security_warning", "system_announcement", "marketplace_update"];
const PRIORITIES = ["urgent", "high", "medium", "low"];
/** Schemes that a button of a notification may open. The server accepts no others. */
const SCHEMES: ReadonlySet<string> = new Set(["https:", "http:", "mailto:"]);

const words = (name: string): string => name.replaceAll("_", " ");

/** The page. */
export function InboxPage(): ReactElement {
  const { token, user } = useSession();
  const { isLoaded, unreadCount, session } = useStore(inboxView);
  return (
    <>
      <PageHead title="Inbox">
        {isLoaded && (
          <span id="inbox-badge" className={`badge ${unreadCount > 0 ? "hot" : ""}`}>
            {unreadCount} unread
          </span>
        )}
        <span id="inbox-status" className="hidden" role="status">
          {isLoaded ? count(unreadCount, "unread notification") : ""}
        </span>
      </PageHead>
      {token === undefined ? (
        <SignInCard what="a user's inbox" />
      ) : (
        <div id="inbox" data-session={session}>
          <Card
            title="Notifications"
            hint={user === undefined ? "…" : <>Signed in as <b id="inbox-user">{user}</b> <OldMark /></>}
            copy={{
              what: "a notification to this user",
              subject: () => ({ kind: "call", method: "NotifyService/Notify", body: { user: user ?? "", notification: { type: "system_announcement", title: "Hello" } } }),
            }}
          >
            <List />
          </Card>
        </div>
      )}
    </>
  );
}

function List(): ReactElement {
  const { items, next, unreadCount, filter, isLoaded, session, note } = useStore(inboxView);
  const now = useNow();
  const list = useRef<HTMLUListElement>(null);
  const focused = useRef<{ readonly element: HTMLElement; readonly id: string | undefined } | undefined>(undefined);
  const shownIds = useRef<readonly string[]>([]);
  const inbox = currentInbox();
  const { unreadOnly = false, types, priorities } = filter;
  const isFiltered = Object.keys(filter).length > 0;
  const setFilter = (change: { unreadOnly?: boolean; type?: string; priority?: string }): void => {
    const { unreadOnly: only, type, priority } = { unreadOnly, type: types?.[0] ?? "", priority: priorities?.[0] ?? "", ...change };
    inbox?.setFilter({ ...(only && { unreadOnly: true }), ...(type !== "" && { types: [type] }), ...(priority !== "" && { priorities: [priority] }) });
  };
  useEffect(() => {
    inbox?.expire(now);
  }, [inbox, now]);
  useLayoutEffect(() => {
    // The button with the focus is gone: a keyboard goes on at the row that took its place.
    const was = focused.current;
    if (was !== undefined && !was.element.isConnected) {
      focused.current = undefined;
      const before = shownIds.current;
      const index = before.indexOf(was.id ?? "");
      const near = [...before.slice(index), ...before.slice(0, Math.max(0, index)).reverse()].find((id) => items.some((item) => item.id === id));
      (list.current?.querySelector<HTMLElement>(`[data-id="${near ?? ""}"] .dismiss`) ?? list.current)?.focus();
    }
    shownIds.current = items.map(({ id }) => id);
  }, [items]);
  return (
    <>
      <div className="row inbox-bar">
        <label className="row">
          <input type="checkbox" checked={unreadOnly} onChange={(event) => { setFilter({ unreadOnly: event.target.checked }); }} />
          Unread only
        </label>
        <select aria-label="Type" value={types?.[0] ?? ""} onChange={(event) => { setFilter({ type: event.target.value }); }}>
          <option value="">All types</option>
          {[...new Set([...TYPES, ...items.map(({ type }) => type)])].map((type) => (
            <option key={type} value={type}>{words(type)}</option>
          ))}
        </select>
        <select aria-label="Priority" value={priorities?.[0] ?? ""} onChange={(event) => { setFilter({ priority: event.target.value }); }}>
          <option value="">All priorities</option>
          {PRIORITIES.map((priority) => (
            <option key={priority}>{priority}</option>
          ))}
        </select>
        <span className="actions">
          <button type="button" className="small" aria-disabled={unreadCount === 0} onClick={() => inbox?.markAllRead()}>
            {isFiltered ? "Mark listed read" : "Mark all read"}
          </button>
          <button type="button" className="small" onClick={() => { signOut(); }}>Sign out</button>
        </span>
      </div>
      <p className="note bad" id="inbox-note" role="status">{note}</p>
      {!isLoaded && note === "" && <Loading what="the inbox" rows={4} />}
      {isLoaded && items.length === 0 && (isFiltered ? <Empty title="Nothing matches the filter" /> : <Empty title="No notifications">The code of the Copy menu sends one.</Empty>)}
      <ul
        id="notifications"
        ref={list}
        tabIndex={-1}
        aria-label="Notifications, newest first"
        onFocus={({ target }) => {
          focused.current = { element: target, id: target.closest("li")?.dataset["id"] };
        }}
        onBlur={({ target }) => {
          // A button that is removed loses the focus too, and then the list gives it to the next one.
          setTimeout(() => {
            if (target.isConnected && focused.current?.element === target) {
              focused.current = undefined;
            }
          });
        }}
      >
        {items.map((item) => (
          <Row key={item.id} item={item} now={now} />
        ))}
      </ul>
      {(isLoaded ? next !== undefined && items.length < MAX_ITEMS : session === "connected" && note !== "") && (
        <button type="button" id="older" className="small" onClick={() => inbox?.more()}>
          {isLoaded ? "Show older" : "Load again"}
        </button>
      )}
    </>
  );
}

function Row({ item, now }: { readonly item: Notification; readonly now: number }): ReactElement {
  const { id, type, title, body, priority, timestamp, read, actions = [] } = item;
  const links = actions.filter(({ url }) => URL.canParse(url) && SCHEMES.has(new URL(url).protocol));
  const isLoud = priority === "high" || priority === "urgent";
  return (
    <li data-id={id} data-read={read}>
      <p className="title">
        {!read && <span className="hidden">Unread: </span>}
        {title}
      </p>
      <p className="about">
        <span>{words(type)}</span>
        {isLoud && <Chip tone={priority === "urgent" ? "bad" : "warn"} ages={false}>{priority}</Chip>}
        <time dateTime={new Date(timestamp).toISOString()}>{age(now - timestamp)} ago · {timeAndDay(timestamp)}</time>
      </p>
      {body !== "" && <p className="text">{body}</p>}
      <div className="buttons">
        {links.map(({ label, url }) => (
          <a key={label + url} href={url} target="_blank" rel="noopener noreferrer">{label}</a>
        ))}
        {!read && (
          <button type="button" className="small" aria-label={`Mark read: ${title}`} onClick={() => currentInbox()?.markRead(id)}>Mark read</button>
        )}
        <button type="button" className="small quiet dismiss" aria-label={`Dismiss: ${title}`} onClick={() => currentInbox()?.dismiss(id)}>Dismiss</button>
      </div>
    </li>
  );
}

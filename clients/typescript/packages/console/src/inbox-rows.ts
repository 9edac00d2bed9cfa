/** Rows of the inbox: one list item for each notification, kept across updates so that focus stays. */
import type { Notification } from "@tidewire/client";
import { make, setText } from "./dom.ts";
import { age } from "./format.ts";

/** Schemes that a button of a notification may open. The server accepts no others. */
const SCHEMES: ReadonlySet<string> = new Set(["https:", "http:", "mailto:"]);

/** What the buttons of a row do. */
export interface RowActions {
  markRead(id: string): void;
  dismiss(id: string): void;
}

interface Row {
  readonly element: HTMLLIElement;
  readonly time: HTMLTimeElement;
  readonly dismiss: HTMLButtonElement;
  notification: Notification;
}

/** The list of notifications on the page. */
export class InboxRows {
  readonly #list: HTMLElement;
  readonly #actions: RowActions;
  readonly #rows = new Map<string, Row>();

  constructor(list: HTMLElement, actions: RowActions) {
    this.#list = list;
    this.#actions = actions;
  }

  /** Shows these notifications, newest first. `now` is the server's time in milliseconds. */
  draw(items: readonly Notification[], now: number): void {
    const before = [...this.#rows.values()];
    const focused = before.findIndex(({ element }) => element.contains(document.activeElement));
    const kept = new Set(items.map(({ id }) => id));
    for (const [id, { element }] of this.#rows) {
      if (!kept.has(id)) {
        element.remove();
      }
    }
    const rows = items.map((notification) => this.#rowOf(notification));
    let following = this.#list.firstElementChild;
    for (const { element } of rows) {
      if (element === following) {
        following = following.nextElementSibling;
      } else {
        this.#list.insertBefore(element, following);
      }
    }
    this.#rows.clear();
    for (const row of rows) {
      this.#rows.set(row.notification.id, row);
    }
    this.tick(now);
    if (focused >= 0 && !this.#list.contains(document.activeElement)) {
      this.#focusNear(before, focused);
    }
  }

  /** Updates the ages. */
  tick(now: number): void {
    for (const { time, notification } of this.#rows.values()) {
      setText(time, `${age(now - notification.timestamp)} ago`);
    }
  }

  /** The row with the focus is gone, or its button is: a keyboard goes on at the row that took its place. */
  #focusNear(before: readonly Row[], index: number): void {
    const after = before.slice(index).concat(before.slice(0, index).reverse());
    const near = after.map(({ notification }) => this.#rows.get(notification.id)).find((row) => row !== undefined);
    (near?.dismiss ?? this.#list).focus();
  }

  /** The row of a notification: the present one if it shows the same. */
  #rowOf(notification: Notification): Row {
    const present = this.#rows.get(notification.id);
    if (present === undefined) {
      return this.#make(notification);
    }
    if (JSON.stringify(present.notification) === JSON.stringify(notification)) {
      return present;
    }
    const row = this.#make(notification);
    present.element.replaceWith(row.element);
    return row;
  }

  #make(notification: Notification): Row {
    const { id, type, title, body, priority, timestamp, read, actions = [] } = notification;
    const button = (text: string, run: () => void): HTMLButtonElement => {
      const made = make("button", { text, attributes: { type: "button", "aria-label": `${text}: ${title}` } });
      made.addEventListener("click", run);
      return made;
    };
    const dismiss = button("Dismiss", () => {
      this.#actions.dismiss(id);
    });
    const time = make("time", { attributes: { datetime: new Date(timestamp).toISOString() } });
    const isLoud = priority === "high" || priority === "urgent";
    const line = make("div", { class: "about" }, make("span", { text: type.replaceAll("_", " ") }), ...(isLoud ? [make("span", { class: "tag", text: priority })] : []), time);
    const heading = make("p", { class: "title" }, ...(read ? [] : [make("span", { class: "hidden", text: "Unread: " })]), title);
    const buttons = make("div", { class: "buttons" }, ...actions.flatMap(({ label, url }) => linkTo(label, url)));
    if (!read) {
      buttons.append(
        button("Mark read", () => {
          this.#actions.markRead(id);
        }),
      );
    }
    buttons.append(dismiss);
    const element = make("li", { attributes: { "data-id": id, "data-read": String(read) } }, line, heading);
    if (body !== "") {
      element.append(make("p", { class: "text", text: body }));
    }
    element.append(buttons);
    return { element, time, dismiss, notification };
  }
}

/** A link for a button of a notification, or nothing if its URL is not one to open. */
function linkTo(label: string, url: string): HTMLAnchorElement[] {
  if (!URL.canParse(url) || !SCHEMES.has(new URL(url).protocol)) {
    return [];
  }
  return [make("a", { text: label, attributes: { href: url, target: "_blank", rel: "noopener noreferrer" } })];
}

/** Tabs: the pages, with the badges of some. */
import { type ReactElement, useEffect, useRef } from "react";
import { inboxView } from "../inbox/current.ts";
import { useBadges } from "../lib/badges.ts";
import { href, type Page, PAGES, useRoute } from "../lib/route.ts";
import { useStore } from "../lib/store.ts";
import { useTitlePart } from "../lib/title.ts";

/** The name of each page. */
export const PAGE_NAMES: Readonly<Record<Page, string>> = {
  overview: "Overview",
  prices: "Prices",
  market: "Market",
  chains: "Chains",
  inbox: "Inbox",
  alerts: "Alerts",
  channels: "Channels",
  connections: "Connections",
  setup: "Setup",
};

/** The tabs: a column beside the page, and a row above it on a narrow screen. */
export function Tabs(): ReactElement {
  const { page } = useRoute();
  const badges = useBadges();
  useTitlePart("unread", useStore(inboxView).unreadCount);
  const list = useRef<HTMLUListElement>(null);
  useEffect(() => {
    // On a phone the row scrolls: the tab of the page must be in sight.
    const current = list.current?.querySelector<HTMLElement>("[aria-current]");
    if (list.current && current) {
      list.current.scrollLeft = current.offsetLeft - (list.current.clientWidth - current.offsetWidth) / 2;
    }
  }, [page]);
  return (
    <nav className="tabs" aria-label="Pages">
      <ul ref={list}>
        {PAGES.map((name) => {
          const badge = badges[name];
          return (
            <li key={name}>
              <a href={href(name)} aria-current={name === page ? "page" : undefined}>
                {PAGE_NAMES[name]}
                {badge && (
                  <span className={`badge ${badge.isHot ? "hot" : ""}`}>
                    <span aria-hidden="true">{badge.text}</span>
                    <span className="hidden">{badge.label}</span>
                  </span>
                )}
              </a>
            </li>
          );
        })}
      </ul>
    </nav>
  );
}

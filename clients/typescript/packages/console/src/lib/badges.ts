/** Badges: a short text beside the name of a page in the tabs, such as the unread notifications. */
import { useEffect } from "react";
import type { Page } from "./route.ts";
import { createStore, useStore } from "./store.ts";

/** A badge: its text, and what a screen reader says. */
export interface Badge {
  readonly text: string;
  readonly label: string;
  /** Whether it asks for attention. */
  readonly isHot: boolean;
}

const badges = createStore<Partial<Record<Page, Badge>>>({});

/** Shows a badge at a page, or none. */
export function setBadge(page: Page, badge: Badge | undefined): void {
  const { [page]: old, ...rest } = badges.get();
  if (old?.text !== badge?.text || old?.isHot !== badge?.isHot) {
    badges.set(badge ? { ...rest, [page]: badge } : rest);
  }
}

/** Shows a badge at a page while the component is shown. */
export function useBadge(page: Page, badge: Badge | undefined): void {
  useEffect(() => {
    setBadge(page, badge);
  }, [page, badge]);
}

/** The badges of the tabs, followed. */
export function useBadges(): Partial<Record<Page, Badge>> {
  return useStore(badges);
}

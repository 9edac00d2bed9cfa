/** Inbox page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./inbox.css";

/** The page. */
export function InboxPage(): ReactElement {
  return (
    <>
      <PageHead title="Inbox" />
    </>
  );
}

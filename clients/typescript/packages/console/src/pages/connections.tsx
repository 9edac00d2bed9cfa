/** Connections page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./connections.css";

/** The page. */
export function ConnectionsPage(): ReactElement {
  return (
    <>
      <PageHead title="Connections" />
    </>
  );
}

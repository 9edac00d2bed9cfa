/** Alerts page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./alerts.css";

/** The page. */
export function AlertsPage(): ReactElement {
  return (
    <>
      <PageHead title="Alerts" />
    </>
  );
}

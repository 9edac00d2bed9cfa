/** Overview page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./overview.css";

/** The page. */
export function OverviewPage(): ReactElement {
  return (
    <>
      <PageHead title="Overview" />
    </>
  );
}

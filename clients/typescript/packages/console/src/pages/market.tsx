/** Market page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./market.css";

/** The page. */
export function MarketPage(): ReactElement {
  return (
    <>
      <PageHead title="Market" />
    </>
  );
}

/** Prices page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./prices.css";

/** The page. */
export function PricesPage(): ReactElement {
  return (
    <>
      <PageHead title="Prices" />
    </>
  );
}

/** Chains page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./chains.css";

/** The page. */
export function ChainsPage(): ReactElement {
  return (
    <>
      <PageHead title="Chains" />
    </>
  );
}

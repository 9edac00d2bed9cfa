/** Setup page. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./setup.css";

/** The page. */
export function SetupPage(): ReactElement {
  return (
    <>
      <PageHead title="Setup" />
    </>
  );
}

/** Symbol page: one symbol with its chart and its sources. */
import type { ReactElement } from "react";
import { PageHead } from "../ui/card.tsx";
import "./symbol.css";

/** The page. */
export function SymbolPage({ symbol }: { readonly symbol: string }): ReactElement {
  return (
    <>
      <PageHead title={symbol} />
    </>
  );
}

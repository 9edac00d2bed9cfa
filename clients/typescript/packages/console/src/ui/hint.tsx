/** Hints: a term with its meaning, as the browser shows titles. */
import type { ReactElement, ReactNode } from "react";

/** A term that not every reader knows. The glossary of the documentation has it too. */
export function Hint({ text, children }: { readonly text: string; readonly children: ReactNode }): ReactElement {
  return <abbr title={text}>{children}</abbr>;
}

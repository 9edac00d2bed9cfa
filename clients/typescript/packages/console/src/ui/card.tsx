/** Cards: the parts of a page, with a title, a Copy menu and what else belongs in the head. */
import { type ReactElement, type ReactNode, useId } from "react";
import { CopyMenu, type CopyMenuProps } from "./copy.tsx";
import { OldMark } from "./state.tsx";

/** Props of a `Card`. */
export interface CardProps {
  readonly title: ReactNode;
  /** Stands beside the title, soft. */
  readonly hint?: ReactNode;
  readonly copy?: CopyMenuProps | undefined;
  /** Buttons and choices on the right of the title. */
  readonly actions?: ReactNode;
  /** Whether it shows data of the server: without a connection it then says that it is old. */
  readonly ages?: boolean;
  readonly className?: string;
  readonly id?: string;
  readonly children?: ReactNode;
}

/** A card. It is a region with the name of its title. */
export function Card({ title, hint, copy, actions, ages = false, className = "", id, children }: CardProps): ReactElement {
  const titleId = useId();
  return (
    <section className={`card ${className}`} id={id} aria-labelledby={titleId}>
      <div className="head">
        <h2 id={titleId}>{title}</h2>
        {hint !== undefined && <span className="hint">{hint}</span>}
        {ages && <OldMark />}
        <span className="actions">
          {actions}
          {copy && <CopyMenu {...copy} />}
        </span>
      </div>
      {children}
    </section>
  );
}

/** The head of a page: its only `h1`, and what belongs to the whole page. */
export function PageHead({ title, children }: { readonly title: ReactNode; readonly children?: ReactNode }): ReactElement {
  return (
    <div className="page-head">
      <h1 tabIndex={-1}>{title}</h1>
      {children}
    </div>
  );
}

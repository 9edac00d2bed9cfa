/**
 * Hints: a term with its meaning. A mouse shows the meaning by pointing, a finger by a tap, the
 * keyboard by the focus. Screen readers read it as the description of the term.
 *
 * All terms share one box at the end of the page: a card would cut a box of its own off.
 */
import { type ReactElement, type ReactNode, useEffect, useLayoutEffect, useRef } from "react";
import { createStore, useStore } from "../lib/store.ts";

/** Time in milliseconds in which the pointer moves from the term to the box. */
const WAY_MS = 150;
/** Distance of the box from the term and from the edges of the window, in pixels. */
const GAP = 6;

interface Shown {
  readonly term: HTMLElement;
  readonly text: string;
  /** Whether it stays when the pointer leaves: after a click or a tap. */
  readonly isKept: boolean;
}

const shown = createStore<Shown | undefined>(undefined);
let timer: ReturnType<typeof setTimeout> | undefined;

function show(term: HTMLElement, text: string, isKept: boolean): void {
  clearTimeout(timer);
  shown.set({ term, text, isKept });
}

/** Hides the meaning of a term, or of any. */
function hide(term = shown.get()?.term): void {
  clearTimeout(timer);
  if (shown.get()?.term === term) {
    shown.set(undefined);
  }
}

function hideSoon(): void {
  clearTimeout(timer);
  if (shown.get()?.isKept === false) {
    timer = setTimeout(hide, WAY_MS);
  }
}

/** Props of a `Hint`. */
export interface HintProps {
  /** The meaning. */
  readonly text: string;
  readonly className?: string;
  readonly children: ReactNode;
}

/** A term that not every reader knows. The glossary of the documentation has it too. */
export function Hint({ text, className = "term", children }: HintProps): ReactElement {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const term = button.current ?? undefined;
    return () => {
      hide(term);
    };
  }, []);
  return (
    <button
      type="button"
      ref={button}
      className={className}
      aria-description={text}
      onPointerEnter={({ currentTarget, pointerType }) => {
        if (pointerType === "mouse" && shown.get()?.term !== currentTarget) {
          show(currentTarget, text, false);
        }
      }}
      onPointerLeave={hideSoon}
      onFocus={({ currentTarget }) => {
        if (currentTarget.matches(":focus-visible")) {
          show(currentTarget, text, false);
        }
      }}
      onBlur={({ currentTarget }) => {
        hide(currentTarget);
      }}
      onClick={({ currentTarget }) => {
        const now = shown.get();
        if (now?.term === currentTarget && now.isKept) {
          hide();
        } else {
          show(currentTarget, text, true);
        }
      }}
    >
      {children}
    </button>
  );
}

/** The box with the meaning of the term that is pointed at. It stands once, at the end of the page. */
export function HintBox(): ReactElement {
  const hint = useStore(shown);
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (hint && box.current) {
      const { left, width, top, bottom } = hint.term.getBoundingClientRect();
      const { offsetWidth, offsetHeight, style } = box.current;
      const { clientWidth, clientHeight } = document.documentElement;
      const below = bottom + GAP;
      style.left = `${Math.max(GAP, Math.min(left + (width - offsetWidth) / 2, clientWidth - offsetWidth - GAP))}px`;
      style.top = `${below + offsetHeight > clientHeight ? Math.max(GAP, top - GAP - offsetHeight) : below}px`;
    }
  }, [hint]);
  // Before the page is drawn: Escape hides the meaning as soon as it is seen.
  useLayoutEffect(() => {
    if (!hint) {
      return;
    }
    const abort = new AbortController();
    const options = { capture: true, signal: abort.signal };
    const hideAny = (): void => {
      hide();
    };
    addEventListener("scroll", hideAny, options);
    addEventListener("resize", hideAny, options);
    addEventListener(
      "pointerdown",
      ({ target }) => {
        if (![hint.term, box.current].some((part) => part?.contains(target as Node))) {
          hide();
        }
      },
      options,
    );
    addEventListener(
      "keydown",
      ({ key }) => {
        if (key === "Escape") {
          hide();
        }
      },
      options,
    );
    return () => {
      abort.abort();
    };
  }, [hint]);
  return (
    // A screen reader has the description of the term.
    <div ref={box} className="hint-box" aria-hidden="true" hidden={!hint} onPointerEnter={() => { clearTimeout(timer); }} onPointerLeave={hideSoon}>
      {hint?.text}
    </div>
  );
}

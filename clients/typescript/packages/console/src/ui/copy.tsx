/** Copy menu: copies what a part of the page shows as code in curl, TypeScript, Python or Rust. */
import { type KeyboardEvent, type ReactElement, useEffect, useId, useLayoutEffect, useRef, useState } from "react";
import { base } from "../lib/base.ts";
import { commandOptions } from "../lib/command.ts";
import { useDevelopmentUser } from "../lib/development-user.ts";
import { currentSession } from "../lib/session.ts";
import { LANGUAGES, type Language, snippet, type SnippetSubject } from "../lib/snippets.ts";
import { createStore, useStore } from "../lib/store.ts";

/** Time in milliseconds for which a menu shows that it has copied. */
const CONFIRMATION_MS = 1_500;

/** The code in the dialog, where the browser gives no clipboard. */
const shown = createStore<{ readonly language: Language; readonly code: string } | undefined>(undefined);
/** The announcement after a copy, for a screen reader. */
const announced = createStore("");

/** Props of a `CopyMenu`. */
export interface CopyMenuProps {
  /** The copied subject, such as `the prices`. */
  readonly what: string;
  /** Called at the time of the click. */
  readonly subject: () => SnippetSubject;
  /** Whether the code needs the token of the user. By default it does where the server wants one. */
  readonly asUser?: boolean;
}

/** A button that opens the languages. Its name is `Copy {what} as code`. */
export function CopyMenu({ what, subject, asUser = false }: CopyMenuProps): ReactElement {
  const [isOpen, setOpen] = useState(false);
  const [copied, setCopied] = useState<Language>();
  const user = useDevelopmentUser();
  const root = useRef<HTMLSpanElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const id = useId();

  // Before the page is drawn: the keys of a quick user already belong to the menu.
  useLayoutEffect(() => {
    if (!isOpen) {
      return;
    }
    root.current?.querySelector<HTMLElement>("[role=menuitem]")?.focus();
    const close = (event: Event): void => {
      if (!root.current?.contains(event.target as Node)) {
        setOpen(false);
      }
    };
    document.addEventListener("pointerdown", close);
    document.addEventListener("focusin", close);
    return () => {
      document.removeEventListener("pointerdown", close);
      document.removeEventListener("focusin", close);
    };
  }, [isOpen]);

  useEffect(() => {
    if (copied) {
      const timer = setTimeout(() => {
        setCopied(undefined);
      }, CONFIRMATION_MS);
      return () => {
        clearTimeout(timer);
      };
    }
    return;
  }, [copied]);

  const copy = (language: Language): void => {
    setOpen(false);
    button.current?.focus();
    const code = snippet(language, base, subject(), asUser || currentSession().wantsToken ? user : undefined, commandOptions());
    // Without a secure context there is no clipboard at all, whatever the types say.
    const { clipboard } = navigator as { readonly clipboard?: Clipboard };
    (clipboard?.writeText(code) ?? Promise.reject(new Error("no clipboard"))).then(
      () => {
        setCopied(language);
        announced.set(`Copied ${what} as ${language}.`);
      },
      () => {
        shown.set({ language, code });
      },
    );
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") {
      setOpen(false);
      button.current?.focus();
    } else if (step !== undefined) {
      const items = [...(root.current?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
      const next = items.indexOf(document.activeElement as HTMLElement) + step;
      items[Number.isFinite(step) ? (next + items.length) % items.length : step < 0 ? 0 : items.length - 1]?.focus();
    } else {
      return;
    }
    event.preventDefault();
  };

  return (
    <span className="copy" ref={root}>
      <button
        type="button"
        ref={button}
        className="small copy-button"
        data-copied={copied}
        aria-haspopup="menu"
        aria-expanded={isOpen}
        aria-controls={isOpen ? id : undefined}
        aria-label={`Copy ${what} as code`}
        onClick={() => {
          setOpen(!isOpen);
        }}
      >
        {copied ? "Copied" : "Copy ▾"}
      </button>
      {isOpen && (
        <span role="menu" id={id} className="menu" aria-label={`Copy ${what} as`} onKeyDown={onKeyDown}>
          {LANGUAGES.map((language) => (
            <button
              key={language}
              type="button"
              role="menuitem"
              tabIndex={-1}
              onClick={() => {
                copy(language);
              }}
            >
              {language}
            </button>
          ))}
        </span>
      )}
    </span>
  );
}

/** The parts that all copy menus share: the announcement, and the dialog for browsers that give no clipboard. */
export function CopyDialog(): ReactElement {
  const code = useStore(shown);
  const text = useStore(announced);
  const dialog = useRef<HTMLDialogElement>(null);
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    if (code) {
      // A browser gives a clipboard only to pages over TLS or from this machine.
      dialog.current?.showModal();
      area.current?.select();
    }
  }, [code]);
  return (
    <>
      <p className="hidden" role="status">
        {text}
      </p>
      <dialog
        ref={dialog}
        aria-labelledby="code-title"
        onClose={() => {
          shown.set(undefined);
        }}
      >
        <form method="dialog">
          <h2 id="code-title">Copy as {code?.language}</h2>
          <textarea ref={area} id="code-text" readOnly rows={14} aria-labelledby="code-title" value={code?.code ?? ""} />
          <button className="main">Close</button>
        </form>
      </dialog>
    </>
  );
}

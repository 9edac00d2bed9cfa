/** Copy buttons: copy a part of the page as code in curl, JavaScript or Rust. */
import { base } from "./base.ts";
import { byId, make } from "./dom.ts";
import { LANGUAGES, type Language, snippet, type SnippetSubject } from "./snippets.ts";

/** Time in milliseconds for which a button shows that it has copied. */
const CONFIRMATION_MS = 1_500;

/** Copy buttons for the subject at the time of the click. Screen readers read `name`. */
export function copyButtons(name: string, subject: () => SnippetSubject): HTMLElement {
  const group = make("span", { class: "copy", attributes: { role: "group", "aria-label": `Copy ${name} as code` } });
  group.append(make("span", { class: "copy-word", text: "Copy as", attributes: { "aria-hidden": "true" } }));
  for (const language of LANGUAGES) {
    const attributes = { type: "button", title: `Copy ${name} as ${language}`, "aria-label": `Copy ${name} as ${language}` };
    const button = make("button", { text: language, attributes });
    button.addEventListener("click", () => {
      void copy(language, snippet(language, base, subject())).then((isCopied) => {
        if (isCopied) {
          confirmCopy(button, language);
        }
      });
    });
    group.append(button);
  }
  return group;
}

/** Copies `code` to the clipboard. Where there is no clipboard, shows the code in a dialog and returns `false`. */
async function copy(language: Language, code: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(code);
    byId("copied", HTMLElement).textContent = `Copied as ${language}.`;
    return true;
  } catch {
    // A browser gives a clipboard only to pages over TLS or from this machine.
    byId("code-title", HTMLElement).textContent = `Copy as ${language}`;
    const text = byId("code-text", HTMLTextAreaElement);
    text.value = code;
    byId("code", HTMLDialogElement).showModal();
    text.select();
    return false;
  }
}

function confirmCopy(button: HTMLButtonElement, language: Language): void {
  button.dataset["copied"] = "";
  button.textContent = "Copied";
  setTimeout(() => {
    delete button.dataset["copied"];
    button.textContent = language;
  }, CONFIRMATION_MS);
}

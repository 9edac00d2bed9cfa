/** The buttons "copy as curl, JavaScript, Rust", and what says that it was copied. */
import { byId, make } from "./dom.ts";
import { LANGUAGES, type Language, type Shown, snippet } from "./snippets.ts";

/** How long the word "copied" stays. */
const THANKS_MS = 1_500;

/** Buttons for what `shown` gives at the time of the click; `what` names it to a screen reader. */
export function copyButtons(what: string, shown: () => Shown): HTMLElement {
  const group = make("span", { class: "copy", attributes: { role: "group", "aria-label": `Copy ${what} as code` } });
  group.append(make("span", { class: "copy-word", text: "Copy as", attributes: { "aria-hidden": "true" } }));
  for (const language of LANGUAGES) {
    const attributes = { type: "button", title: `Copy ${what} as ${language}`, "aria-label": `Copy ${what} as ${language}` };
    const button = make("button", { text: language, attributes });
    button.addEventListener("click", () => {
      void copy(language, snippet(language, location.origin, shown())).then((copied) => {
        if (copied) {
          thank(button, language);
        }
      });
    });
    group.append(button);
  }
  return group;
}

/** Copies; where the browser forbids that, shows the text to be copied by hand. */
async function copy(language: Language, code: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(code);
    byId("copied", HTMLElement).textContent = `Copied as ${language}.`;
    return true;
  } catch {
    // A page that came without TLS from another machine has no clipboard.
    byId("code-title", HTMLElement).textContent = `Copy as ${language}`;
    const text = byId("code-text", HTMLTextAreaElement);
    text.value = code;
    byId("code", HTMLDialogElement).showModal();
    text.select();
    return false;
  }
}

function thank(button: HTMLButtonElement, language: Language): void {
  button.dataset["copied"] = "";
  button.textContent = "Copied";
  setTimeout(() => {
    delete button.dataset["copied"];
    button.textContent = language;
  }, THANKS_MS);
}

/** Theme: dark or light as the system is, or as the user chose. */
import { readStored, writeStored } from "./storage.ts";
import { createStore, useStore } from "./store.ts";

const THEME_KEY = "tidewire.theme";

/** The choices, in the order of the button. */
const THEMES = ["auto", "light", "dark"] as const;

/** A theme. */
export type Theme = (typeof THEMES)[number];

const theme = createStore<Theme>(THEMES.find((name) => name === readStored("localStorage", THEME_KEY)) ?? "auto");
/** Counts changes of the colours, so that charts are drawn again. */
const changes = createStore(0);

function apply(): void {
  document.documentElement.dataset["theme"] = theme.get();
  changes.set(changes.get() + 1);
}

/** Shows the theme. Called once, when the page starts. */
export function startTheme(): void {
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
}

/** Chooses the next theme. */
export function nextTheme(): void {
  const next = THEMES[(THEMES.indexOf(theme.get()) + 1) % THEMES.length] ?? "auto";
  theme.set(next);
  writeStored("localStorage", THEME_KEY, next);
  apply();
}

/** The chosen theme, followed. */
export function useTheme(): Theme {
  return useStore(theme);
}

/** Changes when the colours do: a dependency of what draws on a canvas. */
export function useThemeChanges(): number {
  return useStore(changes);
}

/** The colour of a token such as `--up` as a canvas understands it: `rgb(…)`. */
export function themeColor(token: string): string {
  const probe = document.createElement("i");
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

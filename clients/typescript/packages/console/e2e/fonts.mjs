// Fonts of very different width for the layout checks. They come from npm, pinned by the
// lock file, so that the result does not depend on the fonts of the machine.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { assert } from "./harness.mjs";

const require = createRequire(import.meta.url);

/**
 * The fonts. `digit` is the width of a zero as a fraction of the font size, to verify that
 * the font is in use. `mayScroll` marks a display font, wider than any text font: in it, a
 * table may scroll within its card.
 */
export const FONTS = [
  { name: "Roboto Condensed", file: "roboto-condensed", weights: [400, 700], digit: 0.49 },
  { name: "DejaVu Sans", file: "dejavu-sans", weights: [400, 700], digit: 0.636 },
  { name: "Krona One", file: "krona-one", weights: [400], digit: 0.917, mayScroll: true },
];

/** Sets `font` for all text of `page`, and throws if the browser uses another. */
export async function useFont(page, font) {
  const faces = font.weights.map((weight) => {
    const path = require.resolve(`@fontsource/${font.file}/files/${font.file}-latin-${weight}-normal.woff2`);
    return { weight: String(weight), data: readFileSync(path).toString("base64") };
  });
  const digit = await page.evaluate(load, { family: `Test ${font.name}`, faces });
  assert(Math.abs(digit - font.digit) < 0.005, `a zero is ${digit} wide, expected ${font.digit}: the page does not use ${font.name}`);
}

/** Runs in the page: loads the font from bytes, since the page's policy forbids URLs, and measures a zero. */
async function load({ family, faces }) {
  for (const { weight, data } of faces) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    document.fonts.add(await new FontFace(family, bytes, { weight }).load());
  }
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`* { font-family: "${family}" !important; }`);
  document.adoptedStyleSheets = [sheet];
  const probe = document.createElement("span");
  probe.textContent = "0".repeat(100);
  probe.style.cssText = "position: absolute; font-size: 10px; white-space: nowrap";
  document.body.append(probe);
  const digit = probe.getBoundingClientRect().width / 1_000;
  probe.remove();
  return document.fonts.check(`10px "${family}"`) ? digit : 0;
}

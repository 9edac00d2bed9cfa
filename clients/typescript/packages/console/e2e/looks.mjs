// Phones, light and dark, names for screen readers.
import { assert, check } from "./harness.mjs";

export async function checkLooks(open) {
  const page = await open();
  await page.locator('#prices tr[data-symbol="BTC-USD"] .price').click();
  await page.locator("#sources-BTC-USD tr[data-source]").first().waitFor();
  await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  await page.getByRole("button", { name: "Publish", exact: true }).click();
  await page.locator("#frames > li").first().waitFor();

  for (const width of [320, 375, 768, 1280]) {
    await check(`nothing sticks out at ${width} pixels`, async () => {
      await page.setViewportSize({ width, height: 812 });
      const wide = await page.evaluate(() => {
        const most = document.documentElement.clientWidth;
        const out = [...document.querySelectorAll("body *")].filter((element) => {
          const { right, left, width: size } = element.getBoundingClientRect();
          const edge = Math.min(most, element.closest("section")?.getBoundingClientRect().right ?? most);
          return size > 1 && right > 0 && (right > edge + 0.5 || left < -0.5);
        });
        const names = out.map((element) => `${element.tagName}.${element.className}#${element.id}`);
        return document.documentElement.scrollWidth > most ? [`the page is ${document.documentElement.scrollWidth} wide`, ...names] : names;
      });
      assert(wide.length === 0, wide.join("\n"));
    });
  }

  await page.setViewportSize({ width: 1280, height: 900 });
  for (const colorScheme of ["light", "dark"]) {
    await check(`text is readable in ${colorScheme} mode`, async () => {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const { background, poor } = await page.evaluate(readability);
      assert(colorScheme === "dark" ? background < 0.05 : background > 0.8, `the page's brightness is ${background}`);
      assert(poor.length === 0, poor.join("\n"));
    });
  }

  await check("every control has a name", async () => {
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, textarea")]
        .filter((control) => !(control.textContent || control.ariaLabel || control.labels?.length || control.getAttribute("aria-labelledby")))
        .map((control) => control.outerHTML),
    );
    assert(nameless.length === 0, nameless.join("\n"));
  });

  await page.close();
}

/** Runs in the page: the brightness of its ground, and the texts whose contrast is below 4.5. */
function readability() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r / 255, g / 255, b / 255, a / 255];
  };
  const over = ([r, g, b, a], [r2, g2, b2]) => [r * a + r2 * (1 - a), g * a + g2 * (1 - a), b * a + b2 * (1 - a)];
  const ground = (element) => {
    const above = [];
    for (let at = element; at !== null; at = at.parentElement) {
      above.push(rgba(window.getComputedStyle(at).backgroundColor));
    }
    return above.reduceRight((below, color) => over(color, below), [1, 1, 1]);
  };
  const brightness = (color) => {
    const [r, g, b] = color.slice(0, 3).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
    if (!hasText || element.getBoundingClientRect().width <= 1) {
      continue;
    }
    const below = ground(element);
    const [a, b] = [brightness(over(rgba(window.getComputedStyle(element).color), below)), brightness(below)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) {
      poor.push(`${contrast.toFixed(2)}: ${element.tagName}.${element.className} ${element.textContent.trim().slice(0, 40)}`);
    }
  }
  return { background: brightness(ground(document.body)), poor };
}

// Checks of the layout in several widths and fonts, of contrast, and of names for screen readers.
import { useFakeServer } from "./fake-server.mjs";
import { FONTS, useFont } from "./fonts.mjs";
import { assert, check } from "./harness.mjs";
import { PUBLIC_PAGES } from "./pages.mjs";

const WIDTHS = [320, 375, 768, 1024, 1280];

/** Pages that need a user, or show more with a part in their address. They are looked at with extreme values. */
const EXTREME_PAGES = [
  ["inbox", "#notifications > li"],
  ["alerts", ".fires li"],
  ["alerts/r1", ".why li"],
  ["alerts/r1/edit", ".editor"],
  ["alerts/new", ".editor"],
  [`chains/1/tx/0x${"ab".repeat(32)}`, ".tracked"],
  [`chains/1/wallet/0x${"ab".repeat(20)}`, ".wallet-lines li"],
];

export async function checkLayout(open, server) {
  const page = await open();
  for (const [route, data] of PUBLIC_PAGES) {
    await page.goto(`${server}/#/${route}`);
    await page.locator(data).first().waitFor();
    await checkPage(page, route);
  }
  await page.close();

  const extreme = await page.context().newPage();
  await useFakeServer(extreme);
  await extreme.addInitScript(() => window.sessionStorage.setItem("tidewire.token", "a.b.c"));
  for (const [route, data] of [...PUBLIC_PAGES, ...EXTREME_PAGES]) {
    await extreme.goto(`${server}/#/${route}`);
    await extreme.locator(data).first().waitFor();
    await checkContrast(extreme, ` on ${route} with extreme values`);
    await checkFonts(extreme, ` on ${route} with extreme values`, true);
  }
  await extreme.close();
}

/** Checks a page as it is: widths, contrast, names, fonts. `name` says which one. */
export async function checkPage(page, name) {
  await checkWidths(page, ` on ${name}`);
  await checkContrast(page, ` on ${name}`);
  await check(`every control on ${name} has a name`, async () => {
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, textarea, a")]
        .filter((control) => !(control.textContent || control.ariaLabel || control.labels?.length || control.getAttribute("aria-labelledby")))
        .map((control) => control.outerHTML),
    );
    assert(nameless.length === 0, nameless.join("\n"));
  });
  await checkFonts(page, ` on ${name}`);
}

async function checkFonts(page, suffix, mayScroll = false) {
  for (const font of FONTS) {
    await check(`the page uses ${font.name}${suffix}`, () => useFont(page, font));
    await checkWidths(page, ` in ${font.name}${suffix}`, mayScroll || font.mayScroll);
  }
}

/** `mayScroll`: a table that is too wide may scroll within its card. */
async function checkWidths(page, suffix, mayScroll = false) {
  for (const width of WIDTHS) {
    await check(`nothing sticks out at ${width} pixels${suffix}`, async () => {
      await page.setViewportSize({ width, height: 812 });
      // A chart takes its new width with the next frame.
      await page.evaluate(() => new Promise((resolve) => window.requestAnimationFrame(() => window.requestAnimationFrame(resolve))));
      const faults = await page.evaluate(layoutFaults, mayScroll);
      assert(faults.length === 0, faults.slice(0, 20).join("\n"));
    });
  }
  await page.setViewportSize({ width: 1280, height: 900 });
}

async function checkContrast(page, suffix) {
  for (const colorScheme of ["light", "dark"]) {
    await check(`text is readable in ${colorScheme} mode${suffix}`, async () => {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const { background, poor } = await page.evaluate(readability);
      assert(colorScheme === "dark" ? background < 0.05 : background > 0.8, `the page's brightness is ${background}`);
      assert(poor.length === 0, poor.join("\n"));
    });
  }
}

/** Runs in the page: lists what is wider than the page, its card, its scroller or its cell. */
function layoutFaults(mayScroll) {
  const most = document.documentElement.clientWidth;
  const name = (element) => `${element.tagName}.${element.getAttribute("class") ?? ""}#${element.id}`;
  const scrollerOf = (element) => {
    for (let at = element.parentElement; at !== null; at = at.parentElement) {
      if (["auto", "scroll"].includes(window.getComputedStyle(at).overflowX)) {
        return at;
      }
    }
    return null;
  };
  const faults = document.documentElement.scrollWidth > most ? [`the page is ${document.documentElement.scrollWidth} wide`] : [];
  for (const element of document.querySelectorAll("body *")) {
    const { right, left, width } = element.getBoundingClientRect();
    if (width <= 1 || right <= 0 || ((mayScroll || element.closest("nav") !== null) && scrollerOf(element) !== null)) {
      continue;
    }
    const edge = Math.min(most, element.closest("section")?.getBoundingClientRect().right ?? most);
    if (right > edge + 0.5 || left < -0.5) {
      faults.push(`${name(element)} reaches from ${left} to ${right} of ${edge}`);
    }
    // The tabs are a row that scrolls on a phone.
    if (!mayScroll && element.closest("nav") === null && element.scrollWidth > element.clientWidth + 1 && window.getComputedStyle(element).overflowX === "auto") {
      faults.push(`${name(element)} scrolls: ${element.scrollWidth} in ${element.clientWidth}`);
    }
  }
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (words.nextNode() !== null) {
    if (words.currentNode.parentElement.closest(".hidden") !== null) {
      // For screen readers only: it takes no room.
      continue;
    }
    const box = words.currentNode.parentElement.closest("td, th, dt, dd, li, p, h1, h2, h3, button, label, .chip, .tag, .strip, header, footer");
    const room = box?.getBoundingClientRect();
    range.selectNodeContents(words.currentNode);
    const text = range.getBoundingClientRect();
    if (box !== null && window.getComputedStyle(box).textOverflow === "ellipsis") {
      // It is cut on purpose, and says so.
      continue;
    }
    if (room !== undefined && room.width > 1 && text.width > 1 && (text.left < room.left - 1 || text.right > room.right + 1)) {
      faults.push(`"${words.currentNode.textContent.slice(0, 40)}" reaches out of ${name(box)}`);
    }
  }
  return faults;
}

/** Runs in the page: returns the brightness of its background, and the texts whose contrast is below 4.5. */
export function readability() {
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

/** DOM helpers: find, create and update elements. Text always goes through `textContent`. */

/** Options of a new element. */
export interface ElementOptions {
  readonly class?: string;
  readonly text?: string;
  /** An attribute with the value `undefined` is left out. */
  readonly attributes?: Readonly<Record<string, string | undefined>>;
}

/** Returns the element with this id. Throws if the page has none of this class. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) {
    throw new Error(`the page has no ${kind.name} #${id}`);
  }
  return found;
}

/** Creates an element with its children. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  options: ElementOptions = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  if (options.class !== undefined) {
    element.className = options.class;
  }
  if (options.text !== undefined) {
    element.textContent = options.text;
  }
  for (const [name, value] of Object.entries(options.attributes ?? {})) {
    if (value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children);
  return element;
}

/** Creates an SVG element. */
export function makeSvg<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Readonly<Record<string, string>> = {},
): SVGElementTagNameMap[Tag] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  return element;
}

/** Sets a text only if it differs: an equal text would lose the selection and be read out again. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Colours a number by its change: up, down or neither. */
export function setTrend(element: Element, change: number | null | undefined): void {
  element.classList.toggle("up", (change ?? 0) > 0);
  element.classList.toggle("down", (change ?? 0) < 0);
}

const pendingDraws = new Set<() => void>();

/** Runs `paint` with the next animation frame, once however often it is called. */
export function draw(paint: () => void): void {
  if (pendingDraws.size === 0) {
    requestAnimationFrame(() => {
      const paints = [...pendingDraws];
      pendingDraws.clear();
      for (const next of paints) {
        next();
      }
    });
  }
  pendingDraws.add(paint);
}

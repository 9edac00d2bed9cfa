/** Small helpers around the DOM. Text always goes through textContent. */

/** What a made element may have. */
export interface Traits {
  readonly class?: string;
  readonly text?: string;
  /** Attributes; `undefined` leaves one out. */
  readonly attributes?: Readonly<Record<string, string | undefined>>;
}

/** The element with this id. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) {
    throw new Error(`the page has no ${kind.name} #${id}`);
  }
  return found;
}

/** A new element with its children. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  traits: Traits = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  if (traits.class !== undefined) {
    made.className = traits.class;
  }
  if (traits.text !== undefined) {
    made.textContent = traits.text;
  }
  for (const [name, value] of Object.entries(traits.attributes ?? {})) {
    if (value !== undefined) {
      made.setAttribute(name, value);
    }
  }
  made.append(...children);
  return made;
}

/** A new SVG element. */
export function makeSvg<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Readonly<Record<string, string>> = {},
): SVGElementTagNameMap[Tag] {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  return made;
}

/** Changes a text only if it is another, so that nothing is selected away or read out twice. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Marks a number as risen, fallen or neither. */
export function setTrend(element: Element, change: number | null | undefined): void {
  element.classList.toggle("up", (change ?? 0) > 0);
  element.classList.toggle("down", (change ?? 0) < 0);
}

const jobs = new Set<() => void>();

/** Draws with the next frame; the same job at most once. */
export function draw(job: () => void): void {
  if (jobs.size === 0) {
    requestAnimationFrame(() => {
      const due = [...jobs];
      jobs.clear();
      for (const next of due) {
        next();
      }
    });
  }
  jobs.add(job);
}

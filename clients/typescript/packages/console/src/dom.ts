/** Small helpers around the DOM. Text always goes through textContent. */

/** The element with this id. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) {
    throw new Error(`the page has no ${kind.name} #${id}`);
  }
  return found;
}

/** A row of cells. */
export function row(...texts: string[]): HTMLTableRowElement {
  const made = document.createElement("tr");
  for (const text of texts) {
    made.insertCell().textContent = text;
  }
  return made;
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

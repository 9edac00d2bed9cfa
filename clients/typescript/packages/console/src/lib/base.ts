/** Base: the address of the server, which a proxy may serve under a path of its own. */

/** The URL of the page's folder, without the last slash. */
export const base: string = new URL(".", location.href).href.replace(/\/$/, "");

/** Runtime of a browser while an application is developed: failures have texts. */
export { findWebSocket } from "./default.ts";
export { diagnose } from "./diagnosis.ts";
export { say } from "./texts.ts";

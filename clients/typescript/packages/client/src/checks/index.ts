/** Checks of messages while you develop: `@tidewire/client/checks`. */
export { checkServerMessage, isPriceUpdate, isSourceList, type ParseResult, parseChecked, parseServerMessage } from "../parse.ts";

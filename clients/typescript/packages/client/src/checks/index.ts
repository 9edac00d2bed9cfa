/** Checks of messages while you develop: `@tidewire/client/checks`. */
export { checkServerMessage, isPriceUpdate, isSourceList, type ParseResult, parseServerMessage } from "../parse.ts";

/** Checks of messages while you develop: `@tidewire/client/checks`. */
export { checkMessage, checkServerMessage, isPriceUpdate, isSourceList, type ParseResult, parseServerMessage } from "../parse.ts";

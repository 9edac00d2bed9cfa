import type { Plugin } from "rolldown";

/** A plugin of Rolldown that bundles the files of this package for browsers, by their path in `dist`. */
export function filesOf(files: Map<string, string>): Plugin;

/** Compiles the package in a folder. Returns its files by their path in `dist`. */
export function compile(root: string): Promise<Map<string, string>>;

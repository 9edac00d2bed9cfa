/**
 * Flattening: puts the body of a function that is called once in the place of its call.
 *
 * A client is one closure of many parts, each of them a function in a file of its own, as in
 * `const [start, settle] = openRequests(clock, send)`. Flattened, nothing passes between the parts: an argument or an
 * entry of the result that is a variable becomes that variable, and `() => variable` too. A minifier then sees all
 * variables at once. The unit tests run with the files that come of this too.
 */
import remapping from "@jridgewell/remapping";
import { parse } from "acorn";
import { analyze } from "eslint-scope";
import MagicString from "magic-string";

const OPTIONS = { ecmaVersion: 2022, sourceType: "module", ranges: true };

const isFunction = ({ type }) => /Function/.test(type);

/** Visits a node and all below it, each with its next four parents. `enter` returns `false` to stay out of one. */
function walk(node, enter, parents = []) {
  if (enter(node, parents) !== false) {
    const above = [node, ...parents.slice(0, 3)];
    for (const value of Object.values(node)) {
      for (const child of Array.isArray(value) ? value : [value]) {
        if (typeof child?.type === "string") {
          walk(child, enter, above);
        }
      }
    }
  }
}

/** Reads a chunk: the parents of each node, and the variables. */
function read(code) {
  const tree = parse(code, OPTIONS);
  const parents = new Map();
  walk(tree, (node, above) => void parents.set(node, above));
  return { parents, variables: analyze(tree, OPTIONS).scopes.flatMap(({ variables }) => variables) };
}

/** All places of a variable's name: where it is declared and where it is used. */
const placesOf = ({ identifiers, references }) => new Set([...identifiers, ...references.map(({ identifier }) => identifier)]);

/** The places where a variable is used. */
const usesOf = ({ references }) => references.filter(({ init }) => !init).map(({ identifier }) => identifier);

/** Returns whether a variable always has its first value. */
const isFixed = ({ references }) => references.every((reference) => reference.init || !reference.isWrite());

/** Writes another name in all places of a variable. */
function rename(text, variable, name, parents) {
  for (const place of placesOf(variable)) {
    const [parent, outer] = parents.get(place);
    // `{ name }` and `{ name = 1 }` keep the name of the property.
    const isShort = parent.shorthand || (parent.type === "AssignmentPattern" && parent.left === place && outer.shorthand);
    text.update(place.start, place.end, isShort ? `${place.name}: ${name}` : name);
  }
}

/** Gives each variable of a function a name that no other has. */
function separate(code) {
  const { variables, parents } = read(code);
  const text = new MagicString(code);
  let last = 0;
  for (const variable of variables) {
    const isOfModule = ["global", "module"].includes(variable.scope.type) || variable.defs[0]?.node.type === "ClassDeclaration";
    if (!isOfModule && variable.identifiers.length) {
      rename(text, variable, `${variable.name}$${++last}`, parents);
    }
  }
  return text;
}

/** Returns the function that a variable is, and what declares it. */
function functionOf({ defs: [def] }) {
  if (def?.type === "FunctionName") {
    return { made: def.node, whole: def.node };
  }
  const isAlone = def?.type === "Variable" && def.parent.kind === "const" && def.parent.declarations.length === 1;
  const made = isAlone && def.node.id.type === "Identifier" ? def.node.init : undefined;
  return made && isFunction(made) ? { made, whole: def.parent } : undefined;
}

/** Returns what the body of a function ends with: `[statements, result]`. Returns nothing if it may end before, or is bound to its place. */
function bodyOf(made) {
  if (made.async || made.generator || made.params.some(({ type }) => type === "RestElement")) {
    return undefined;
  }
  const returns = [];
  let isBound = false;
  walk(made.body, (node) => {
    isBound ||= ["ThisExpression", "Super", "MetaProperty"].includes(node.type) || node.name === "arguments";
    return !isFunction(node) || node.type === "ArrowFunctionExpression";
  });
  walk(made.body, (node) => {
    returns.push(...(node.type === "ReturnStatement" ? [node] : []));
    return node === made.body || !isFunction(node);
  });
  if (made.body.type !== "BlockStatement") {
    return isBound ? undefined : [[], made.body];
  }
  const statements = made.body.body;
  const [end] = returns;
  if (isBound || !statements.length || returns.length > 1 || (end && end !== statements.at(-1))) {
    return undefined;
  }
  return end ? [statements.slice(0, -1), end.argument ?? undefined] : [statements, undefined];
}

/** Returns the first function that can be flattened, and its call: `const place = call;`, `return call;` or `call;`. */
function find(code) {
  const { variables, parents } = read(code);
  for (const variable of variables) {
    const uses = usesOf(variable);
    const { made, whole } = functionOf(variable) ?? {};
    const [call, outer, declaration, block] = uses.length === 1 && made ? parents.get(uses[0]) : [];
    const isCall = call?.type === "CallExpression" && call.callee === uses[0] && call.arguments.length <= made.params.length;
    const body = isCall && call.arguments.every(({ type }) => type !== "SpreadElement") ? bodyOf(made) : undefined;
    if (!body) {
      continue;
    }
    const [statements, result] = body;
    const isConst = outer.type === "VariableDeclarator" && declaration.kind === "const" && declaration.declarations.length === 1 && block.type === "BlockStatement";
    if (outer.type === "ExpressionStatement" || (result && (isConst || outer.type === "ReturnStatement"))) {
      const target = isConst ? outer.id : undefined;
      return { variables, parents, made, whole, call, statements, result, target, statement: isConst ? declaration : outer };
    }
  }
  return undefined;
}

/** Pairs of places and values: the parameters with the arguments, and what is made of the result. */
function pairsOf({ made, call, result, target }) {
  const params = made.params.map((param, index) => {
    const value = call.arguments[index];
    if (param.type !== "AssignmentPattern") {
      return [param, value];
    }
    if (value) {
      throw new Error(`\`${value.name}\` is given for a parameter that has a default`);
    }
    return [param.left, param.right];
  });
  const isList = target?.type === "ArrayPattern" && result.type === "ArrayExpression";
  const results = isList ? target.elements.map((place, index) => [place, result.elements[index]]).filter(([place]) => place) : [[target, result]];
  return { params, results: target ? results : [] };
}

/** Gives one name to the two variables of each pair that keep their value. */
function merge(code, found) {
  const { variables, parents } = found;
  const variableOf = new Map(variables.flatMap((variable) => [...placesOf(variable)].map((place) => [place, variable])));
  const text = new MagicString(code);
  const { params, results } = pairsOf(found);
  for (const [place, value] of [...params, ...results]) {
    const [variable, other] = [place, value].map((one) => variableOf.get(one));
    if (variable && other && isFixed(variable) && isFixed(other)) {
      rename(text, variable, value.name, parents);
    }
  }
  return text;
}

/** Puts the body in the place of the call. */
function move(code, { variables, whole, statement, statements, ...found }) {
  const { result, target } = found;
  const text = new MagicString(code);
  const { params, results } = pairsOf(found);
  const fixed = new Set(variables.filter(isFixed).map(({ name }) => name));
  const textOf = (node) => (node ? code.slice(node.start, node.end) : "undefined");
  const isNew = ([place, value]) => place.type !== "Identifier" || place.name !== value?.name;
  const headOf = (place) => `${place.type !== "Identifier" || fixed.has(place.name) ? "const" : "let"} ${textOf(place)} = `;
  const given = params.filter(isNew).map(([place, value]) => `${headOf(place)}${textOf(value)};\n`);
  const body = statements.length ? [[statements[0].start, statements.at(-1).end, "", ";\n"]] : [];
  const end = result && !target ? [[result.start, result.end, statement.type === "ReturnStatement" ? "return (" : "(", ");"]] : [];
  const parts = [...body, ...results.filter(isNew).map(([place, { start, end: to }]) => [start, to, headOf(place), ";\n"]), ...end];
  text.appendLeft(statement.start, `${target ? "" : "{"}${given.join("")}`);
  let last = whole.start;
  for (const [from, to, before, after] of parts) {
    text.prependRight(from, before).appendLeft(to, after).move(from, to, statement.start);
    // All between the parts goes.
    text.remove(last, from);
    last = to;
  }
  text.update(statement.start, statement.end, target ? ";" : "}");
  return text.remove(last, whole.end);
}

/** Puts a variable in the place of the calls of the first function that returns it. Returns nothing if there is none. */
function readVariables(code) {
  const { variables, parents } = read(code);
  for (const variable of variables) {
    const { made, whole } = functionOf(variable) ?? {};
    const uses = usesOf(variable);
    let value = made?.body;
    while (value?.type === "UnaryExpression") {
      value = value.argument;
    }
    if (value?.type === "Identifier" && !made.params.length && !made.async && uses.length && uses.every((use) => parents.get(use)[0].callee === use)) {
      const text = new MagicString(code);
      for (const use of uses) {
        const [call] = parents.get(use);
        text.update(call.start, call.end, `(${code.slice(made.body.start, made.body.end)})`);
      }
      return text.remove(whole.start, whole.end);
    }
  }
  return undefined;
}

/** A plugin of Rolldown that flattens its chunks. */
export function flatten() {
  return {
    name: "flatten",
    renderChunk(code, { fileName }) {
      const maps = [];
      let now = code;
      const apply = (text) => {
        now = text.toString();
        maps.unshift(text.generateMap({ hires: "boundary", source: fileName }));
      };
      apply(separate(now));
      for (let found; (found = find(now)); ) {
        apply(merge(now, found));
        apply(move(now, find(now)));
      }
      for (let text; (text = readVariables(now)); ) {
        apply(text);
      }
      return { code: now, map: remapping(maps, () => null) };
    },
  };
}

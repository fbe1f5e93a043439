// The keys: what each does, and what the page says of the others.

import { element } from "./words.js";

export const DIGITS = "1234567890"; // the keys of the first classes

// Shown keys, what they do, and the command of each key. Ctrl is Cmd on a Mac.
const TABLE = [
  ["1 … 9 0", "it is that class", {}],
  ["A", "the label shown is right", { a: "accept" }],
  ["C", "it is a class by name, also a new one", { c: "other" }],
  ["X", "it is of no use: leave it out", { x: "reject" }],
  ["U, Ctrl Z", "take the last decision back", { u: "undo", "Ctrl+z": "undo" }],
  ["Ctrl Y", "make it again", { "Ctrl+y": "redo", "Ctrl+Shift+z": "redo" }],
  ["← → ↑ ↓", "another image; a zoomed picture moves", {
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
  }],
  ["Page ↑, Page ↓", "the image before or after this one, also when zoomed", {
    PageUp: "previous", PageDown: "next",
  }],
  ["Home, End", "the first or last image", { Home: "first", End: "last" }],
  ["N", "the next undecided image", { n: "nextUndecided" }],
  ["Enter", "large picture, and back", { Enter: "enlarge" }],
  ["+ −", "zoom", { "+": "zoomIn", "=": "zoomIn", "-": "zoomOut" }],
  ["Z", "own size, or the whole picture", { z: "ownSize" }],
  ["Space", "select this image; the next decision is about all that are selected", { " ": "pick" }],
  ["Shift with ← → ↑ ↓", "select from here on", {
    "Shift+ArrowLeft": "pickLeft", "Shift+ArrowRight": "pickRight",
    "Shift+ArrowUp": "pickUp", "Shift+ArrowDown": "pickDown",
  }],
  ["Ctrl A", "select all that are loaded", { "Ctrl+a": "pickAll" }],
  ["Esc", "back, or select none", { Escape: "back" }],
  ["[ ]", "another view", { "[": "viewBefore", "]": "viewAfter" }],
  ["?", "these keys", { "?": "help" }],
];
const COMMANDS = Object.assign({}, ...TABLE.map(([, , keys]) => keys));

// The table for people; where there is no label yet, none can be right.
export function rows(labelling) {
  const known = TABLE.filter(([, , keys]) => !(labelling && keys.a));
  return known.map(([shown, does]) => {
    const row = element("tr");
    const keys = element("th");
    keys.scope = "row";
    keys.append(element("kbd", "", shown));
    row.append(keys, element("td", "", does));
    return row;
  });
}

// The name of a key with what is held down beside it; letters and signs have their case and Shift.
function named({ key, ctrlKey, metaKey, shiftKey }) {
  const held = ctrlKey || metaKey;
  const letter = key.length === 1;
  const name = letter ? key.toLowerCase() : key;
  return `${held ? "Ctrl+" : ""}${shiftKey && (held || !letter) ? "Shift+" : ""}${name}`;
}

// Call `commands` by name, `digit` with the number of a class, and `unknown` with any other key.
export function listen({ commands, digit, unknown }) {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.isComposing || event.target.closest("input, select, dialog")) return;
    if (event.target.closest("button, summary") && ["Enter", " "].includes(event.key)) return;
    const name = named(event);
    const command = COMMANDS[name];
    if (command) {
      event.preventDefault();
      commands[command]();
    } else if (name.length === 1) {
      event.preventDefault();
      if (DIGITS.includes(name)) digit(DIGITS.indexOf(name));
      else unknown(event.key);
    }
  });
}

// What is said about an image and about a decision. Names from the data are text, never markup.

const percent = (share) => `${Math.round(100 * share)}%`;

export const told = (decision) => decision.label ?? "of no use";

export function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

// One line of a card; a long file name goes on behind a folder rather than within a name.
export function paragraph(name, text) {
  const made = element("p", name);
  if (name !== "file") made.textContent = text;
  else made.append(...text.split("/").flatMap((part, at) => (at ? ["/", element("wbr"), part] : [part])));
  return made;
}

// What is known of an image, as [class, text] for each line.
export function lines(item) {
  const shown = item.given ?? item.label;
  const found = [["file", item.image]];
  if (shown !== null) found.push(["label", shown]);
  if (item.why) found.push(["why", item.why]);
  if (shown !== null && item.given === null) {
    found.push(["why", `${percent(item.confidence)}, else ${item.other}`]);
  } else if (shown !== null) {
    const chance = `${percent(item.suspicion)} chance that it is wrong`;
    if (!item.suspected) found.push(["why", `your label; ${chance}`]);
    else found.push(["doubt", `looks like ${item.label}; ${chance}`]);
  }
  if (item.unsaved) found.push(["done", `${told(item.unsaved)} (not saved yet)`]);
  else if (item.decision) found.push(["done", `✓ ${told(item.decision)}`]);
  return found;
}

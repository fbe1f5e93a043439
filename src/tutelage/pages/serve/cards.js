// A card for each picture: what is shown, and what the model says. Names are set as text, never as markup.

const SHOWN = 12; // bars of a card; the others are folded away

export function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function percent(share) {
  if (share > 0.999 && share < 1) return "> 99.9%";
  if (share < 0.001 && share > 0) return "< 0.1%";
  return `${(100 * share).toFixed(1)}%`;
}

export function card(shown, name) {
  const made = element("li");
  const figure = element("figure");
  figure.append(shown, element("figcaption", "", name));
  made.append(figure, element("div", "answer"));
  made.lastChild.append(element("p", "muted", "Waiting for the answer"));
  return made;
}

export function picture(file) {
  const image = element("img");
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
  image.decoding = "async";
  image.addEventListener("error", () => {
    image.replaceWith(element("p", "muted", "This browser cannot show the picture."));
  });
  return image;
}

// Show an answer on its card. `probabilities` is a list of [class, probability] in the model's order,
// `threshold` the model's decision threshold, [class, least probability], or null.
export function tell(made, { label, rejected, probabilities, threshold, milliseconds }) {
  const shares = [...probabilities].sort((a, b) => b[1] - a[1]);
  const parts = [element("h2", rejected ? "unknown" : "", label)];
  if (rejected) {
    parts.push(element("p", "", `It looks like none of the classes. The nearest is ${shares[0][0]}.`));
  }
  if (!rejected && label !== shares[0][0]) {
    parts.push(element("p", "", `${shares[0][0]} is more probable, but ${rule(threshold)}.`));
  }
  parts.push(table(shares.slice(0, SHOWN), label, "Probabilities"));
  if (shares.length > SHOWN) {
    const rest = element("details");
    rest.append(element("summary", "", `The other ${shares.length - SHOWN} classes`));
    rest.append(table(shares.slice(SHOWN), label, "Other probabilities"));
    rest.open = Boolean(made.querySelector("details")?.open);
    parts.push(rest);
  }
  parts.push(element("p", "muted", `Answered in ${milliseconds.toFixed(0)} ms`));
  made.lastChild.replaceChildren(...parts);
  return rejected ? label : `${label}, ${percent(new Map(shares).get(label))}`;
}

// How the model decides where it does not take the most probable class.
function rule([name, least]) {
  return `the model says ${name} from a probability of ${Number((100 * least).toFixed(1))}% on, and not below`;
}

function table(shares, label, title) {
  const made = element("table", "probabilities");
  made.createCaption().textContent = title;
  const body = made.createTBody();
  for (const [name, share] of shares) {
    const row = body.insertRow();
    if (name === label) row.className = "chosen";
    const head = element("th", "", name);
    head.scope = "row";
    const bar = element("div", "bar");
    bar.append(element("div"));
    bar.firstChild.style.width = `${100 * share}%`;
    row.append(head);
    row.insertCell().append(bar);
    const figure = row.insertCell();
    figure.className = "figure";
    figure.textContent = percent(share);
  }
  return made;
}

export function fail(made, message) {
  made.lastChild.replaceChildren(element("h2", "failed", "No answer"), element("p", "", message));
  return "no answer";
}

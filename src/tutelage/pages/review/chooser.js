// The dialog that asks for a class by name. A slip must not make a class: a name that is none yet
// is asked about, and Enter again makes it.

const $ = (id) => document.getElementById(id);
const folded = (name) => name.normalize("NFKC").toLowerCase().split(/\s+/).join(" ");

let asked = null; // the name that a second Enter makes a class
let names = [];

function hint(text, name) {
  $("hint").textContent = text;
  $("choose").textContent = name === null ? "Choose" : "Make it a class";
  asked = name;
}

export function choose(classes, whom) {
  names = classes;
  $("about-whom").textContent = whom;
  $("wanted").value = "";
  hint("", null);
  $("chooser").returnValue = "";
  $("chooser").showModal();
}

// `chosen` is called with a name, and whether it is no class yet.
export function prepare(chosen) {
  $("chooser").addEventListener("submit", (event) => {
    const name = $("wanted").value.trim();
    if (!name || names.includes(name) || name === asked) return;
    event.preventDefault();
    const alike = names.find((known) => folded(known) === folded(name));
    if (alike) hint(`The class is called ${alike}.`, null);
    else hint(`There is no class ${name} yet. Enter makes it one.`, name);
  });
  $("chooser").addEventListener("close", () => {
    const name = $("wanted").value.trim();
    if ($("chooser").returnValue === "choose" && name) chosen(name, !names.includes(name));
  });
  $("wanted").addEventListener("input", () => hint("", null));
  $("cancel").addEventListener("click", () => $("chooser").close("cancel"));
}

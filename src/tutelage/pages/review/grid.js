// The cards of a list: one stretch of it that grows at both ends, since a list may be long.

import { PAGE } from "./list.js";
import { element, lines, paragraph } from "./words.js";

export class Grid {
  #first = 0; // the stretch of positions that have cards: from #first up to, not with, #last
  #last = 0;
  #marked = null; // the current card
  #growing = Promise.resolve();

  constructor({ place, earlier, more, clicked, failed }) {
    Object.assign(this, { place, earlier, more, clicked, failed });
    earlier.addEventListener("click", () => this.#grow(-1).catch(failed));
    more.addEventListener("click", () => this.#grow(1).catch(failed));
    this.ahead = new IntersectionObserver(
      ([entry]) => entry.isIntersecting && this.#grow(1).catch(failed),
      { rootMargin: "800px" },
    );
  }

  async open(list) {
    this.list = list;
    this.#restart(list.at);
    await this.reach(list.at);
  }

  has(position) {
    return position >= this.#first && position < this.#last;
  }

  // Make sure that a position has a card.
  async reach(position) {
    const list = this.list;
    if (position < this.#first - PAGE || position >= this.#last + PAGE) this.#restart(position);
    while (list === this.list && position < Math.min(this.#first, list.length)) await this.#grow(-1);
    while (list === this.list && position >= this.#last && position < list.length) await this.#grow(1);
  }

  #restart(position) {
    this.#first = this.#last = PAGE * Math.floor(position / PAGE);
    this.#marked = null;
    this.place.replaceChildren();
    this.#showEnds();
  }

  #grow(step) {
    const grown = this.#growing.then(() => this.#add(step));
    this.#growing = grown.catch(() => {}); // whoever waits for it hears of the failure
    return grown;
  }

  async #add(step) {
    const { list } = this;
    const [first, last] = [this.#first, this.#last];
    const from = step > 0 ? last : Math.max(0, first - PAGE);
    const to = step > 0 ? Math.min(list.length, last + PAGE) : first;
    if (from === to) return;
    await list.load(from, to);
    if (list !== this.list || first !== this.#first || last !== this.#last) return; // it moved on
    const cards = list.ids.slice(from, to).map((id, at) => this.#card(list.items.get(id), from + at));
    if (step > 0) this.place.append(...cards);
    else this.place.prepend(...cards);
    this.#first = Math.min(first, from);
    this.#last = Math.max(last, to);
    this.#showEnds();
  }

  #showEnds() {
    this.earlier.hidden = this.#first === 0;
    this.more.hidden = this.#last >= this.list.length;
    this.ahead.disconnect(); // so that it looks again, also where the end is still in sight
    if (!this.more.hidden && this.#last > this.#first) this.ahead.observe(this.more);
  }

  #card(item, position) {
    const card = element("div", "item");
    card.id = `item-${item.id}`;
    card.setAttribute("role", "option");
    card.setAttribute("aria-posinset", position + 1);
    card.setAttribute("aria-setsize", this.list.length);
    card.setAttribute("aria-selected", String(this.list.picked.has(item.id)));
    card.tabIndex = -1;
    const image = element("img");
    image.src = `/images/${item.id}/small`;
    image.loading = "lazy";
    image.alt = item.image;
    card.append(image, ...lines(item).map((line) => paragraph(...line)));
    const done = item.unsaved ?? item.decision;
    if (done) card.dataset.action = done.action;
    card.addEventListener("click", (event) => this.clicked(position, event));
    return card;
  }

  #at(position) {
    return this.place.children[position - this.#first];
  }

  // Draw an image anew, its picture excepted: that would flicker.
  redraw(id) {
    const card = document.getElementById(`item-${id}`);
    if (!card) return;
    const item = this.list.items.get(id);
    card.replaceChildren(card.firstChild, ...lines(item).map((line) => paragraph(...line)));
    const done = item.unsaved ?? item.decision;
    if (done) card.dataset.action = done.action;
    else delete card.dataset.action;
  }

  showPicked() {
    for (const card of this.place.children) {
      const id = Number(card.id.slice("item-".length));
      card.setAttribute("aria-selected", String(this.list.picked.has(id)));
    }
  }

  // Show which card is the current one, and focus it if the keyboard is in the grid.
  mark(position, focus) {
    this.#marked?.removeAttribute("aria-current");
    if (this.#marked) this.#marked.tabIndex = -1;
    this.#marked = this.#at(position) ?? null;
    if (!this.#marked) return;
    this.#marked.setAttribute("aria-current", "true");
    this.#marked.tabIndex = 0;
    if (focus) this.#marked.focus();
    if (position >= this.#last - 20 && this.#last < this.list.length) this.#grow(1).catch(this.failed);
  }

  get columns() {
    const cards = this.place.children;
    let number = 1;
    while (number < cards.length && cards[number].offsetTop === cards[0].offsetTop) number += 1;
    return number;
  }

  get loaded() {
    return [this.#first, this.#last - 1];
  }
}

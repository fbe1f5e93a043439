// The images of a view in their order, as they were when it was opened: deciding moves none away.

import { ask } from "./server.js";

export const PAGE = 60; // images that are asked for at once

export class List {
  items = new Map(); // by id, those that were asked for
  picked = new Set(); // ids of the selected ones
  at = 0; // the position of the current one
  anchor = 0; // where Shift selects from

  // `waiting` are ids that are decided, though the server may not know it yet.
  static async open(view, ofClass, shown, waiting) {
    const found = await ask(`/api/view?${new URLSearchParams({ view, class: ofClass })}`);
    const decided = new Set([...found.decided, ...waiting]);
    const ids = found.items.filter((id) => shown === "all" || decided.has(id) === (shown === "decided"));
    return new List(ids, decided);
  }

  constructor(ids, decided) {
    this.ids = ids;
    this.decided = decided; // a set of ids; of this list and perhaps others
  }

  get length() {
    return this.ids.length;
  }

  get current() {
    return this.items.get(this.ids[this.at]);
  }

  get undecided() {
    return this.ids.filter((id) => !this.decided.has(id)).length;
  }

  // The first undecided position from `start` on, then from the beginning; -1 for none.
  nextUndecided(start) {
    const open = (id) => !this.decided.has(id);
    const later = this.ids.findIndex((id, at) => at >= start && open(id));
    return later >= 0 ? later : this.ids.findIndex(open);
  }

  async load(first, last) {
    const ids = this.ids.slice(first, last);
    for (const item of (await ask(`/api/items?ids=${ids}`)).items) this.items.set(item.id, item);
  }

  // What the server says of items after a decision.
  update(items) {
    for (const item of items) {
      this.items.set(item.id, item);
      if (item.decision) this.decided.add(item.id);
      else this.decided.delete(item.id);
    }
  }

  pick(id, on = !this.picked.has(id)) {
    if (on) this.picked.add(id);
    else this.picked.delete(id);
  }

  pickRange(from, to) {
    const ids = this.ids.slice(Math.min(from, to), Math.max(from, to) + 1);
    this.picked = new Set(ids.filter((id) => this.items.has(id)));
  }
}

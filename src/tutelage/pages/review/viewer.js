// The large picture: fitted to the window, at its own size, or anything between and beyond. What
// does not fit is scrolled to.

const LARGE = 1600; // pixels of a side of the first picture; a larger image has a full one, too
const KEPT = 6; // pictures that are ready to be shown again
const MOST = 8; // times the fitted size, and at least the own size four times
const CRISP = 4; // from here on pixels are shown as squares
const SWIPE = 60; // pixels

export class Viewer {
  #pictures = new Map(); // address -> image element
  #picture = null; // the one that is shown
  #id = null;
  #factor = 1; // times the fitted size
  #own = false; // one pixel of the image is one of the window
  #center = [0.5, 0.5]; // what was in the middle of the picture before
  #touched = null; // where a finger came down

  constructor({ place, stage, swiped, changed }) {
    Object.assign(this, { place, stage, swiped, changed });
    const at = (event) => [event.clientX, event.clientY];
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), at(event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => this.toggleOwn(at(event)));
    stage.addEventListener("pointermove", ({ buttons, pointerType, movementX, movementY }) => {
      if (buttons === 1 && pointerType === "mouse") stage.scrollBy(-movementX, -movementY);
    });
    stage.addEventListener("pointerdown", (event) => { this.#touched = at(event); });
    stage.addEventListener("pointerup", ({ pointerType, isPrimary, clientX, clientY }) => {
      if (pointerType === "mouse" || !isPrimary || this.hidden.some(Boolean)) return;
      const [across, down] = [clientX - this.#touched[0], clientY - this.#touched[1]];
      if (Math.abs(across) > SWIPE && Math.abs(across) > 2 * Math.abs(down)) swiped(-Math.sign(across));
    });
    new ResizeObserver(() => this.#arrange()).observe(stage);
  }

  get open() {
    return !this.place.hidden;
  }

  close() {
    this.place.hidden = true;
    this.#id = null;
  }

  // Show an image, zoomed as the one before it; `others` are probably shown next.
  show(id, name, others) {
    this.place.hidden = false;
    if (id !== this.#id) {
      this.#id = id;
      this.name = name;
      this.#display(this.#ready(id, "large"));
    }
    for (const other of others) this.#ready(other, "large");
  }

  #ready(id, size) {
    const address = `/images/${id}/${size}`;
    const image = this.#pictures.get(address) ?? new Image();
    if (!image.src) image.src = address;
    this.#pictures.delete(address); // to the end: the first ones are forgotten first
    this.#pictures.set(address, image);
    for (const old of this.#pictures.keys()) {
      if (this.#pictures.size > KEPT) this.#pictures.delete(old);
    }
    return image;
  }

  // The former picture goes at once: nobody should decide about it while the next one loads.
  #display(image, { replace = true } = {}) {
    const id = this.#id;
    if (replace) {
      if (this.#picture) this.#center = this.#sharesAt(this.#middle);
      this.#picture = null;
      this.stage.replaceChildren(image.complete ? "" : "Loading …");
    }
    image.alt = this.name;
    image.draggable = false;
    image.decode().then(
      () => {
        if (id !== this.#id) return;
        const center = this.#picture ? this.#sharesAt(this.#middle) : this.#center;
        this.#picture = image;
        this.stage.replaceChildren(image);
        this.#arrange();
        this.#bring(center, this.#middle);
      },
      () => {
        if (id === this.#id && replace) this.stage.replaceChildren("This image cannot be shown.");
      },
    );
  }

  get #fitted() {
    const { naturalWidth, naturalHeight } = this.#picture;
    return Math.min(this.stage.clientWidth / naturalWidth, this.stage.clientHeight / naturalHeight);
  }

  get #scale() {
    return this.#own ? 1 : this.#fitted * this.#factor;
  }

  // Whether there is more of the picture than the window shows: [across, down].
  get hidden() {
    const { scrollWidth, clientWidth, scrollHeight, clientHeight } = this.stage;
    return [scrollWidth > clientWidth + 1, scrollHeight > clientHeight + 1];
  }

  get #middle() {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [left + width / 2, top + height / 2];
  }

  // What of the picture is at a point of the window, as shares of its sides.
  #sharesAt([x, y]) {
    const { left, top, width, height } = this.#picture.getBoundingClientRect();
    return [(x - left) / width, (y - top) / height];
  }

  // Scroll so that this is there, as far as the picture goes.
  #bring([across, down], [x, y]) {
    const { left, top, width, height } = this.#picture.getBoundingClientRect();
    this.stage.scrollBy(left + across * width - x, top + down * height - y);
  }

  #arrange() {
    if (!this.#picture || !this.open) return;
    const { naturalWidth, naturalHeight, src, style, classList } = this.#picture;
    style.width = `${naturalWidth * this.#scale}px`;
    classList.toggle("crisp", this.#scale >= CRISP);
    this.stage.classList.toggle("movable", this.hidden.some(Boolean));
    // Whether the image may have more pixels than the picture that is shown.
    const partial = src.endsWith("/large") && Math.max(naturalWidth, naturalHeight) >= LARGE;
    const wanted = this.#own || this.#scale * devicePixelRatio > 1;
    if (partial && wanted) this.#display(this.#ready(this.#id, "full"), { replace: false });
    const percent = Math.round(100 * this.#scale);
    const whole = `${naturalWidth} × ${naturalHeight} pixels, shown at ${percent}%`;
    this.changed({ own: this.#own, about: partial ? "" : whole });
  }

  zoomBy(times, point) {
    if (!this.#picture) return;
    const fitted = this.#fitted;
    const [least, most] = [Math.min(1, 1 / fitted), Math.max(MOST, 4 / fitted)];
    const factor = Math.max(least, Math.min(most, (this.#scale / fitted) * times));
    this.#zoom({ factor, own: false }, point);
  }

  toggleOwn(point) {
    if (this.#picture) this.#zoom({ factor: 1, own: !this.#own && this.#factor === 1 }, point);
  }

  // What is at `point` of the window stays there.
  #zoom({ factor, own }, point = this.#middle) {
    const shares = this.#sharesAt(point);
    this.#factor = factor;
    this.#own = own;
    this.#arrange();
    this.#bring(shares, point);
  }

  // Move the window over the picture by shares of its sides.
  pan(across, down) {
    this.stage.scrollBy(across * this.stage.clientWidth, down * this.stage.clientHeight);
  }
}

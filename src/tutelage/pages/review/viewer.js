// The large picture: fitted to the window, at its own size, or anything between and beyond.

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
  #center = [0.5, 0.5]; // what is in the middle of the window, as shares of the image
  #drag = null;

  constructor({ place, stage, swiped, changed }) {
    Object.assign(this, { place, stage, swiped, changed });
    stage.addEventListener("wheel", (event) => this.#turned(event), { passive: false });
    stage.addEventListener("dblclick", (event) => this.toggleOwn(this.#point(event)));
    stage.addEventListener("pointerdown", (event) => this.#grab(event));
    stage.addEventListener("pointermove", (event) => this.#pull(event));
    stage.addEventListener("pointerup", (event) => this.#drop(event));
    stage.addEventListener("pointercancel", () => { this.#drag = null; }); // the browser zooms
    new ResizeObserver(() => this.#arrange()).observe(stage);
  }

  get open() {
    return !this.place.hidden;
  }

  get own() {
    return this.#own;
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
      this.#picture = null;
      this.stage.replaceChildren(image.complete ? "" : "Loading …");
    }
    image.alt = this.name;
    image.draggable = false;
    image.decode().then(
      () => {
        if (id !== this.#id) return;
        this.#picture = image;
        this.stage.replaceChildren(image);
        this.#arrange();
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

  get #size() {
    return [this.#picture.naturalWidth * this.#scale, this.#picture.naturalHeight * this.#scale];
  }

  get #window() {
    return [this.stage.clientWidth, this.stage.clientHeight];
  }

  // Whether there is more of the picture than the window shows: [across, down].
  get hidden() {
    if (!this.#picture) return [false, false];
    return this.#size.map((side, axis) => side > this.#window[axis] + 1);
  }

  #arrange() {
    if (!this.#picture || !this.open) return;
    const size = this.#size;
    const start = size.map((side, axis) => {
      const room = this.#window[axis];
      if (side <= room) return (room - side) / 2;
      return Math.min(0, Math.max(room - side, room / 2 - this.#center[axis] * side));
    });
    this.#center = size.map((side, axis) =>
      side > this.#window[axis] ? (this.#window[axis] / 2 - start[axis]) / side : this.#center[axis],
    );
    const { style } = this.#picture;
    [style.width, style.height] = size.map((side) => `${side}px`);
    [style.left, style.top] = start.map((side) => `${side}px`);
    this.#picture.classList.toggle("crisp", this.#scale >= CRISP);
    this.stage.classList.toggle("movable", this.hidden.some(Boolean));
    this.#sharpen();
    const { naturalWidth, naturalHeight } = this.#picture;
    const whole = !this.#partial ? `${naturalWidth} × ${naturalHeight} pixels, shown at ` +
      `${Math.round(100 * this.#scale)}%` : "";
    this.changed({ own: this.#own, about: whole });
  }

  // Whether the image may have more pixels than the picture that is shown.
  get #partial() {
    const { naturalWidth, naturalHeight, src } = this.#picture;
    return src.endsWith("/large") && Math.max(naturalWidth, naturalHeight) >= LARGE;
  }

  #sharpen() {
    const wanted = this.#own || this.#scale * devicePixelRatio > 1;
    if (this.#partial && wanted) this.#display(this.#ready(this.#id, "full"), { replace: false });
  }

  zoomBy(times, point = [0, 0]) {
    if (!this.#picture) return;
    const before = this.#scale;
    const fitted = this.#fitted;
    const least = Math.min(1, 1 / fitted);
    const factor = Math.max(least, Math.min(Math.max(MOST, 4 / fitted), (before / fitted) * times));
    this.#zoom({ factor, own: false }, point);
  }

  toggleOwn(point = [0, 0]) {
    if (this.#picture) this.#zoom({ factor: 1, own: !this.#own && this.#factor === 1 }, point);
  }

  // What is at `point`, counted from the middle of the window, stays there.
  #zoom({ factor, own }, point) {
    const before = this.#size;
    const at = point.map((shift, axis) => this.#center[axis] + shift / before[axis]);
    this.#factor = factor;
    this.#own = own;
    this.#center = this.#size.map((side, axis) => at[axis] - point[axis] / side);
    this.#arrange();
  }

  // Move the window over the picture by shares of its sides.
  pan(across, down) {
    this.#shift(across * this.#window[0], down * this.#window[1]);
  }

  #shift(...pixels) {
    if (!this.#picture) return;
    const size = this.#size;
    this.#center = this.#center.map((share, axis) => share + pixels[axis] / size[axis]);
    this.#arrange();
  }

  #point(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }

  #turned(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 400), this.#point(event));
  }

  #grab(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.stage.setPointerCapture(event.pointerId);
    this.#drag = { from: [event.clientX, event.clientY], at: [event.clientX, event.clientY] };
  }

  #pull(event) {
    if (!this.#drag || !event.isPrimary || !this.hidden.some(Boolean)) return;
    const [x, y] = this.#drag.at;
    this.#drag.at = [event.clientX, event.clientY];
    this.#shift(x - event.clientX, y - event.clientY);
  }

  #drop(event) {
    const drag = this.#drag;
    this.#drag = null;
    if (!drag || event.pointerType === "mouse" || this.hidden.some(Boolean)) return;
    const [across, down] = [event.clientX - drag.from[0], event.clientY - drag.from[1]];
    if (Math.abs(across) > SWIPE && Math.abs(across) > 2 * Math.abs(down)) this.swiped(-Math.sign(across));
  }
}

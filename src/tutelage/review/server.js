// What the server is asked, and how decisions reach it.

const WAITS = [1, 2, 4, 8]; // seconds before what could not be saved is sent again

export class Refused extends Error {} // the server will not do it, however often it is asked

export async function ask(address, body) {
  const options = body
    ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }
    : {};
  const answer = await fetch(address, options).catch(() => {
    throw new Error("the server does not answer; is it still running?");
  });
  const content = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (answer.ok) return content;
  // 403 is a server that was started again: its new address, opened once, lets this page in.
  const final = answer.status >= 400 && answer.status < 500 && answer.status !== 403;
  throw new (final ? Refused : Error)(content.error);
}

// Decisions leave one after the other, in the order of the keys. None is dropped: what could not be
// saved is sent again until the server has it or refuses it.
export class Saving {
  waiting = []; // steps of {body, ...}, the oldest first
  #sending = false;

  constructor({ saved, refused, delayed }) {
    Object.assign(this, { saved, refused, delayed });
  }

  async add(step) {
    this.waiting.push(step);
    if (this.#sending) return;
    this.#sending = true;
    let failures = 0;
    while (this.waiting.length) {
      const next = this.waiting[0];
      try {
        const answer = await ask("/api/decisions", next.body());
        this.waiting.shift();
        failures = 0;
        this.saved(next, answer);
      } catch (error) {
        if (error instanceof Refused || next.once) {
          this.waiting.shift();
          this.refused(next, error);
        } else {
          this.delayed(error);
          await new Promise((wake) => setTimeout(wake, 1000 * (WAITS[failures] ?? WAITS.at(-1))));
          failures += 1;
        }
      }
    }
    this.#sending = false;
  }
}

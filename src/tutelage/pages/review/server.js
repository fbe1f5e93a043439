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
  waiting = []; // steps, the oldest first; one with `once` is not sent again
  settled = Promise.resolve(); // when nothing is waiting
  #sending = false;

  constructor({ saved, refused, delayed }) {
    Object.assign(this, { saved, refused, delayed });
  }

  add(step) {
    this.waiting.push(step);
    if (!this.#sending) this.settled = this.#sendAll();
  }

  async #sendAll() {
    this.#sending = true;
    for (let failures = 0; this.waiting.length;) {
      const step = this.waiting[0];
      const answer = await ask("/api/decisions", step.body()).catch((error) => error);
      if (answer instanceof Error && !(answer instanceof Refused) && !step.once) {
        this.delayed(answer);
        const wait = WAITS[failures++] ?? WAITS.at(-1);
        await new Promise((wake) => setTimeout(wake, 1000 * wait));
        continue;
      }
      failures = 0;
      this.waiting.shift();
      if (answer instanceof Error) this.refused(step, answer);
      else this.saved(step, answer);
    }
    this.#sending = false;
  }
}

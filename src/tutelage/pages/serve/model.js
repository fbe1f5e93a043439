// The exported model, run by onnxruntime-web in this browser.

import * as ort from "./onnxruntime/ort.wasm.min.js";

const address = (name) => new URL(name, import.meta.url).href;

ort.env.wasm.numThreads = 1; // more need headers that a plain web server does not send
ort.env.wasm.wasmPaths = {
  mjs: address("onnxruntime/ort-wasm-simd-threaded.js"),
  wasm: address("onnxruntime/ort-wasm-simd-threaded.wasm"),
};

// A file beside this one. Another model may have stood at its address, so the server is always asked.
async function fetched(name) {
  const response = await fetch(address(name), { cache: "no-cache" });
  if (!response.ok) throw new Error(`for ${name} the server answers ${response.status}`);
  return response;
}

export class Model {
  #session;

  constructor(description, session) {
    Object.assign(this, description);
    this.#session = session;
  }

  static async open() {
    const description = await (await fetched("page.json")).json();
    const graph = await (await fetched(description.files.onnx)).arrayBuffer();
    const errorsOnly = { logSeverityLevel: 3 }; // an int8 file gives a warning for each constant that is folded
    const session = await ort.InferenceSession.create(new Uint8Array(graph), errorsOnly);
    const model = new Model(description, session);
    await model.predict({ data: new Uint8Array(3), width: 1, height: 1 }); // the first run is the slowest
    return model;
  }

  // The answer for upright RGB pixels.
  async predict({ data, width, height }) {
    const images = new ort.Tensor("uint8", data, [1, height, width, 3]);
    const { probabilities, energy } = await this.#session.run({ images });
    const shares = [...probabilities.data];
    const rejected = this.unknown_threshold !== null && energy.data[0] > this.unknown_threshold;
    return {
      label: rejected ? this.#unknown : this.classes[this.#decide(shares)],
      rejected,
      probabilities: this.classes.map((name, k) => [name, shares[k]]),
      threshold: this.decision_threshold,
    };
  }

  // The number of the class that an image is called after, as in tutelage/deploy/answers.py.
  #decide(shares) {
    if (this.decision_threshold === null) return likeliest(shares);
    const [name, least] = this.decision_threshold;
    const own = this.classes.indexOf(name);
    return shares[own] >= least ? own : likeliest(shares.with(own, -1));
  }

  // What images of none of the classes are called, which is the name of no class.
  get #unknown() {
    let label = "unknown";
    while (this.classes.includes(label)) label = `(${label})`;
    return label;
  }
}

const likeliest = (shares) => shares.indexOf(Math.max(...shares));

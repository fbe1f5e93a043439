// node node.mjs MODEL CASES ANSWERS, in a folder where onnxruntime-web is installed
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { answers } from "./web.mjs";

const [model, folder, to] = process.argv.slice(2);
const found = createRequire(pathToFileURL(`${process.cwd()}/`)).resolve("onnxruntime-web");
const { default: ort } = await import(found);
const bytes = (name) => new Uint8Array(readFileSync(`${folder}/${name}`)).buffer;
const cases = JSON.parse(readFileSync(`${folder}/cases.json`, "utf8"));
const given = [cases, bytes("images.bin"), bytes("views.f32")];
const content = { answers: await answers(ort, readFileSync(model), ...given, {}) };
writeFileSync(to, JSON.stringify(content));

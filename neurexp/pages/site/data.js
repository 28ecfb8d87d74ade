"use strict";
// The data of the page. They come as scripts, because a page that is opened from disk may not fetch files.

const pieces = new Map(); // name → {promise, resolve, reject}

/** Every piece of data calls this with its name and its content. */
function take(name, content) {
  const piece = pieces.get(name);
  if (!piece) return;
  piece.taken = true;
  piece.resolve(content);
}

/** The content of `data/NAME.js`, as a promise. A piece is loaded once. */
function load(name) {
  if (!pieces.has(name)) {
    const piece = {};
    piece.promise = new Promise((resolve, reject) => Object.assign(piece, { resolve, reject }));
    pieces.set(name, piece);
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    const fail = () => {
      pieces.delete(name);
      piece.reject(new Error(`data/${name}.js cannot be loaded: is the folder whole?`));
    };
    script.onload = () => { // also of a file that was cut off
      script.remove();
      if (!piece.taken) fail();
    };
    script.onerror = () => {
      script.remove();
      fail();
    };
    document.head.append(script);
  }
  return pieces.get(name).promise;
}

/** Numbers of a typed array's class, from base64. */
function numbers(kind, text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
  return new kind(bytes.buffer);
}

let meta; // of data/meta.js
const columns = new Map(); // name → {values} or {words, codes}, of all neurons

/** One column of the table of neurons, as a promise. */
async function column(name) {
  if (!columns.has(name)) {
    const content = await load(`column_${meta.columns.findIndex((one) => one.name === name)}`);
    const text = content.words !== undefined;
    columns.set(name, text
      ? { words: content.words, codes: numbers(Uint32Array, content.codes) }
      : { values: numbers(Float32Array, content.numbers) });
  }
  return columns.get(name);
}

/** The tokens of the top contexts: their texts, and for every neuron `each` indices of them. */
async function topTokens() {
  const content = await load("search");
  content.codes = typeof content.codes === "string" ? numbers(Uint32Array, content.codes) : content.codes;
  return content;
}

const layerOf = (row) => meta.layers[Math.floor(row / meta.width)];
const neuronOf = (row) => row % meta.width;
const addressOf = (row) => `#/${layerOf(row)}/${neuronOf(row)}`;

/** The row of a neuron; −1 if there is none. */
function rowOf(layer, neuron) {
  const place = meta.layers.indexOf(layer);
  return place < 0 || !(neuron >= 0 && neuron < meta.width) ? -1 : place * meta.width + neuron;
}

/** A number to three digits. */
function format(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return minus(value.toLocaleString("en"));
  if (size >= 1000 && size < 1e6) return minus(Math.round(value).toLocaleString("en"));
  return minus(size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : value.toPrecision(3));
}

const minus = (text) => text.replace(/^-/, "−");

/** An element. Texts become text, never markup; `null` children are left out. */
function make(kind, attributes = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

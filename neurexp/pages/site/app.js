"use strict";
// The page: addresses, the search, sorting, and keys.

const by = (id) => document.getElementById(id);
const PREDICATE = /^([\w.]+)(>=|<=|!=|>|<|=|~)(.+)$/;
const TESTS = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};
const state = { search: "", layer: "", label: "", sort: { name: "neuron", down: false }, shown: [] };
let table;
let turn = 0; // of the list: an earlier one that is still loading is dropped
let cardTurn = 0;
let remembering;
let sorted = { key: "", order: null };

/** A test of rows for each part of the search. Throws an Error that says what is wrong with a part. */
async function testsOf(search) {
  const parts = search.match(/[\w.]+(?:>=|<=|!=|[><=~])"[^"]*"?|"[^"]*"?|\S+/g) ?? [];
  return Promise.all(parts.map(async (part) => {
    const address = /^(\d+)[./](\d+)$/.exec(part);
    if (address) {
      const row = rowOf(Number(address[1]), Number(address[2]));
      return (other) => other === row;
    }
    const found = PREDICATE.exec(part);
    if (found) return predicate(found[1], found[2], found[3]);
    const exact = part.startsWith('"');
    const wanted = part.replaceAll('"', "").replaceAll("␣", " ").toLowerCase();
    const { words, codes, each } = await topTokens();
    const matches = words.map((word) => (exact ? word.toLowerCase() === wanted : word.toLowerCase().includes(wanted)));
    return (row) => {
      for (let index = row * each; index < (row + 1) * each; index++) if (matches[codes[index]]) return true;
      return false;
    };
  }));
}

async function predicate(name, sign, given) {
  if (name === "layer" || name === "neuron") {
    const read = name === "layer" ? layerOf : neuronOf;
    return ofNumbers(name, sign, given, read);
  }
  const known = meta.columns.find((one) => one.name === name);
  if (!known) throw new Error(`There is no column ${name}; “Columns” lists them.`);
  const data = await column(name);
  if (!known.text) return ofNumbers(name, sign, given, (row) => data.values[row]);
  const wanted = given.replaceAll('"', "").replaceAll("␣", " ").toLowerCase();
  const tests = {
    "~": (word) => word.includes(wanted), "=": (word) => word === wanted || word.trim() === wanted, "!=": (word) => word.trim() !== wanted,
  };
  if (!(sign in tests)) throw new Error(`${name} holds texts: give ${name}=TEXT or ${name}~TEXT.`);
  const matches = data.words.map((word) => tests[sign](word.toLowerCase()));
  return (row) => matches[data.codes[row]];
}

function ofNumbers(name, sign, given, read) {
  const number = Number(given.replace("−", "-"));
  if (Number.isNaN(number) || !(sign in TESTS)) throw new Error(`${name} holds numbers: give ${name}>NUMBER, <, >=, <= or =.`);
  // Columns are single precision, so what is given is too: 0.95 is then the 0.95 of the column
  const wanted = name === "layer" || name === "neuron" ? number : Math.fround(number);
  return (row) => !Number.isNaN(read(row)) && TESTS[sign](read(row), wanted);
}

/** All rows in the chosen order: numbers that are missing come last. */
async function sortedRows({ name, down }) {
  const key = `${name} ${down}`;
  if (sorted.key === key) return sorted.order;
  const order = Uint32Array.from({ length: meta.layers.length * meta.width }, (_, row) => row);
  if (name === "neuron") {
    if (down) order.reverse();
  } else {
    const data = await column(name);
    let keys = data.values;
    if (!keys) { // texts: the place of each word in the alphabet
      const collator = new Intl.Collator("en");
      const places = new Float32Array(data.words.length);
      data.words.map((_, index) => index).sort((a, b) => collator.compare(data.words[a], data.words[b]))
        .forEach((word, place) => { places[word] = place; });
      keys = Float32Array.from(data.codes, (code) => places[code]);
    }
    const sign = down ? -1 : 1;
    const worth = Float32Array.from(keys, (value) => (Number.isNaN(value) ? Infinity : sign * value));
    order.sort((a, b) => (worth[a] < worth[b] ? -1 : worth[a] > worth[b] ? 1 : a - b));
  }
  sorted = { key, order };
  return order;
}

/** Applies search, filters and order to the list. */
async function refresh() {
  const mine = ++turn;
  try {
    const search = [state.search, state.layer && `layer=${state.layer}`, state.label && `property="${state.label}"`].filter(Boolean).join(" ");
    const tests = await testsOf(search);
    const all = await sortedRows(state.sort);
    const shown = await Promise.all(state.shown.map(async (name) => ({ ...meta.columns.find((one) => one.name === name), data: await column(name) })));
    if (mine !== turn) return;
    const order = tests.length ? all.filter((row) => tests.every((test) => test(row))) : all;
    table.show(order, shown, state.sort);
    by("status").textContent = `${order.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} neurons`;
    by("status").classList.remove("error");
    by("grid").dataset.turn = mine; // the list is up to date
  } catch (error) {
    if (mine !== turn) return;
    by("status").textContent = error.message;
    by("status").classList.add("error");
  }
  clearTimeout(remembering); // browsers limit how often an address may change
  remembering = setTimeout(remember, 200);
}

/** Keeps the list's state in its address, without a step in the history. */
function remember() {
  if (by("index").hidden) return;
  const { search, layer, label, sort } = state;
  const parts = { q: search, layer, label, sort: sort.name === "neuron" && !sort.down ? "" : (sort.down ? "-" : "") + sort.name };
  const query = new URLSearchParams(Object.entries(parts).filter(([, value]) => value)).toString();
  const address = query ? `#/?${query}` : "#/";
  if (location.hash !== address && (location.hash || query)) history.replaceState(null, "", address);
}

function recall(query) {
  const parts = new URLSearchParams(query);
  const sort = parts.get("sort") ?? "";
  const name = sort.replace(/^-/, "");
  state.search = parts.get("q") ?? "";
  state.layer = parts.get("layer") ?? "";
  state.label = parts.get("label") ?? "";
  state.sort = meta.columns.some((one) => one.name === name) || name === "neuron"
    ? { name, down: sort.startsWith("-") } : { name: "neuron", down: false };
  by("search").value = state.search;
  by("layer").value = state.layer;
  by("label").value = state.label;
}

/** Shows what the address says: a neuron, or the list. */
async function route() {
  const address = /^#\/(\d+)\/(\d+)$/.exec(location.hash);
  const wasCard = !by("card").hidden;
  by("index").hidden = Boolean(address);
  by("card").hidden = !address;
  const mine = ++cardTurn;
  if (!address) {
    document.title = meta.title;
    if (!wasCard || location.hash.includes("?")) recall(location.hash.split("?")[1] ?? "");
    await refresh();
    if (wasCard) {
      by("grid").focus({ preventScroll: true });
      table.choose(table.active);
    }
    return;
  }
  const row = rowOf(Number(address[1]), Number(address[2]));
  const place = by("card");
  if (row < 0) {
    place.replaceChildren(make("nav", {}, make("a", { href: "#/" }, "All neurons")), make("h1", {}, "No such neuron"),
      make("p", {}, `The layers are ${meta.layers.join(", ")}, and each has the neurons 0 to ${meta.width - 1}.`));
    return;
  }
  const at = table.order.indexOf(row);
  const rows = meta.layers.length * meta.width;
  const neighbours = at < 0 ? [row - 1, row + 1 < rows ? row + 1 : -1] : [at > 0 ? table.order[at - 1] : -1, table.order[at + 1] ?? -1];
  if (at >= 0) table.active = at;
  try {
    await showCard(place, row, neighbours, () => mine === cardTurn);
  } catch (error) {
    place.replaceChildren(make("nav", {}, make("a", { href: "#/" }, "All neurons")), make("p", { class: "error" }, error.message));
  }
}

function keys(event) {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.key === "Escape") {
    document.body.classList.add("no-tips");
    if (event.target.id === "search") by("grid").focus();
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    if (by("index").hidden) location.hash = "#/";
    by("index").hidden = false;
    by("search").focus();
    by("search").select();
  } else if (!by("card").hidden && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    by("card").querySelector(event.key === "ArrowLeft" ? "a[rel=prev]" : "a[rel=next]")?.click();
  }
}

function prepareControls() {
  by("title").textContent = meta.title;
  for (const layer of meta.layers) by("layer").append(make("option", { value: layer }, String(layer)));
  by("search").addEventListener("input", (event) => { state.search = event.target.value; refresh(); });
  by("search").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); by("grid").focus(); }
  });
  for (const name of ["layer", "label"]) by(name).addEventListener("change", (event) => { state[name] = event.target.value; refresh(); });
  state.shown = [...meta.shown];
  for (const { name, meaning } of meta.columns) {
    const box = make("input", { type: "checkbox" });
    box.checked = state.shown.includes(name);
    box.addEventListener("change", () => {
      state.shown = meta.columns.map((one) => one.name).filter((one) => (one === name ? box.checked : state.shown.includes(one)));
      refresh();
    });
    by("choices").append(make("label", { title: meaning }, box, name));
  }
}

async function start() {
  by("unstarted").remove();
  meta = await load("meta");
  prepareControls();
  table = new Table(by("grid"), (name) => {
    // Numbers first sort from the largest, texts and addresses from the first
    const text = name === "neuron" || meta.columns.find((one) => one.name === name).text;
    state.sort = { name, down: state.sort.name === name ? !state.sort.down : !text };
    refresh();
  });
  if (meta.columns.some((one) => one.name === "property" && one.text)) {
    for (const word of (await column("property")).words) by("label").append(make("option", { value: word }, word));
  } else {
    by("label").closest("label").remove();
  }
  window.addEventListener("hashchange", route);
  window.addEventListener("keydown", keys);
  window.addEventListener("pointermove", () => document.body.classList.remove("no-tips"));
  window.addEventListener("focusin", () => document.body.classList.remove("no-tips"));
  if (/^#\/\d+\/\d+$/.test(location.hash)) await refresh(); // the list that ← and → go through
  await route();
}

start().catch((error) => document.body.append(make("p", { class: "error" }, error.message)));

"use strict";
// The card of one neuron.

const FAINT = 0.06; // share of the largest activation below which a token is not coloured
const SHARED = 3; // equal values at an end from which the card says so
const MORE = 80; // tokens that “more text” adds on both sides

/** What the card of a row shows, taken from its pieces. */
async function cardOf(row) {
  const piece = await load(`cards_${Math.floor(row / meta.cards)}`);
  if (!piece.read) {
    piece.read = true;
    for (const [name, kind] of [["counts", Uint16Array], ["values", Float32Array], ["places", Uint32Array], ["numbers", Float32Array]]) {
      piece[name] = numbers(kind, piece[name]);
    }
    if (piece.direct) piece.direct.effects = numbers(Float32Array, piece.direct.effects);
    if (piece.histogram) {
      piece.histogram.counts = numbers(Uint32Array, piece.histogram.counts);
      for (const name of ["start", "width"]) piece.histogram[name] = numbers(Float32Array, piece.histogram[name]);
    }
    piece.starts = new Uint32Array(piece.counts.length + 1);
    piece.counts.forEach((count, index) => { piece.starts[index + 1] = piece.starts[index] + count; });
  }
  const place = row % meta.cards;
  const names = meta.statistics.filter((name) => !(name in piece.words));
  const statistics = new Map(meta.statistics.map((name) => [name, name in piece.words
    ? piece.words[name][place]
    : piece.numbers[place * names.length + names.indexOf(name)]]));
  const ends = await Promise.all([0, 1].map((end) => contextsOf(piece, 2 * place + end)));
  return { row, piece, place, statistics, ends };
}

/** The contexts at one end: value, tokens of the whole sequence, the token's place, and levels around it. */
async function contextsOf(piece, which) {
  const window = meta.before + 1 + meta.after;
  const indices = Array.from({ length: piece.counts[which] }, (_, index) => piece.starts[which] + index);
  return Promise.all(indices.map(async (index) => {
    const sequence = Math.floor(piece.places[index] / meta.length);
    const texts = await load(`texts_${Math.floor(sequence / meta.sequences)}`);
    const letters = piece.levels.slice(index * window, (index + 1) * window);
    const half = (meta.alphabet.length - 1) / 2;
    return {
      value: piece.values[index],
      tokens: texts[sequence % meta.sequences],
      at: piece.places[index] % meta.length,
      levels: Array.from(letters, (letter) => (letter === " " ? NaN : (meta.alphabet.indexOf(letter) - half) / half)),
    };
  }));
}

/** A context as coloured text. Colours are shares of `largest`, the largest magnitude at this end. */
function contextText(context, largest, more = 0) {
  const { tokens, at, levels, value } = context;
  const begin = Math.max(0, at - meta.before - more);
  const end = Math.min(tokens.length, at + 1 + meta.after + more);
  const line = make("p", { class: "context", dir: "auto", lang: "" });
  if (begin > 0) line.append("… ");
  for (let index = begin; index < end;) {
    let last = index + 1;
    while (last < end && tokens[last] === "") last++; // parts of one character
    const parts = Array.from({ length: last - index }, (_, part) => levels[index + part - at + meta.before]);
    const level = parts.reduce((best, one) => (!(Math.abs(best) >= Math.abs(one)) ? one : best), NaN);
    const activation = level * Math.abs(value);
    const share = Math.abs(activation) / largest;
    const peak = at >= index && at < last;
    const limit = peak || Math.abs(level) < 1 ? "" : level > 0 ? "≥ " : "≤ "; // it may be beyond
    const told = limit + format(peak ? value : activation + 0); // + 0: no −0
    const span = make(peak ? "mark" : "span", { title: Number.isFinite(level) ? told : null });
    span.textContent = tokens[index] || "·";
    if (share > FAINT) {
      span.classList.add(activation > 0 ? "hot" : "cold");
      if (share > 0.4) span.classList.add("strong");
      span.style.setProperty("--share", (0.08 + 0.62 * Math.min(1, share)).toFixed(2));
    }
    line.append(span);
    index = last;
  }
  if (end < tokens.length) line.append(" …");
  return line;
}

function contextList(title, contexts) {
  const largest = Math.max(1e-30, ...contexts.map((one) => Math.abs(one.value)));
  const items = contexts.map((context) => {
    const text = make("div", {}, contextText(context, largest));
    const button = make("button", { type: "button", class: "more", "aria-expanded": "false", "aria-label": "More text" }, "⋯");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      text.replaceChildren(contextText(context, largest, open ? 0 : MORE));
    });
    return make("li", {}, make("span", { class: "number" }, format(context.value)), text, button);
  });
  const last = contexts.at(-1)?.value;
  const same = contexts.filter((one) => one.value === last).length;
  const ties = same < SHARED ? null
    : make("p", { class: "quiet" }, `${same} of these ${contexts.length} are equal, ${format(last)}; more tokens may be than are kept.`);
  return section(title, ties, items.length ? make("ol", { class: "contexts" }, ...items) : make("p", { class: "quiet" }, "None."));
}

const section = (title, ...children) => make("section", {}, make("h2", {}, title), ...children);

let terms = 0;

/** A name whose meaning shows under the pointer, by touch, and by keyboard; Escape hides it. */
function term(name, meaning) {
  if (!meaning) return make("span", {}, name);
  const id = `meaning_${terms++}`;
  const tip = make("span", { role: "tooltip", class: "tip", id }, meaning);
  return make("span", { class: "term", tabindex: 0, "aria-describedby": id }, name, tip);
}

function statistics(card) {
  const properties = new Set(meta.properties.flatMap((name) => ["ev_", "q_", "p_", "r_"].map((kind) => kind + name)));
  const meanings = new Map(meta.columns.map((one) => [one.name, one.meaning]));
  const pairs = [...card.statistics].filter(([name]) => !properties.has(name)).flatMap(([name, value]) => [
    make("dt", {}, term(name, meanings.get(name))),
    make("dd", { dir: "auto" }, typeof value === "string" ? visible(value) : format(value)),
  ]);
  return section("Statistics", make("dl", {}, ...pairs));
}

/** How much of the neuron's variance each property explains, as bars. */
function explained(card) {
  if (!meta.properties.length) return null;
  const meanings = new Map(meta.columns.map((one) => [one.name, one.meaning]));
  const values = meta.properties.map((name) => ({ name, ev: card.statistics.get(`ev_${name}`), q: card.statistics.get(`q_${name}`) }));
  const rows = values.map(({ name, ev, q }) => {
    const bar = make("span", { class: "bar" });
    bar.style.setProperty("--share", Math.max(0, Math.min(1, ev || 0)));
    return make("tr", {}, make("th", { scope: "row" }, term(name, meanings.get(`ev_${name}`))),
      make("td", { class: "track" }, bar), make("td", { class: "number" }, format(ev)),
      make("td", { class: "number quiet" }, q === undefined ? "" : format(q)));
  });
  const head = make("tr", {}, make("th", {}, "property"), make("th", {}, "0 … 1"), make("th", { class: "number" }, "ev"), make("th", { class: "number" }, "q"));
  return section("Explained variance", make("table", { class: "bars" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function direct(card) {
  const found = card.piece.direct;
  if (!found) return null;
  const lists = ["Promotes", "Suppresses"].map((title, end) => {
    const tokens = found.tokens[card.place][end];
    const items = tokens.map((token, index) => ({ token, effect: found.effects[(2 * card.place + end) * tokens.length + index] }))
      .filter(({ effect }) => Number.isFinite(effect))
      .map(({ token, effect }) => make("li", {}, make("bdi", { class: "token" }, visible(token)), make("span", { class: "number" }, format(effect))));
    return make("div", {}, make("h3", {}, title), make("ul", { class: "tokens" }, ...items));
  });
  return section("Tokens that it promotes and suppresses directly", make("div", { class: "pair" }, ...lists));
}

function histogram(card) {
  const found = card.piece.histogram;
  if (!found) return null;
  const bins = meta.bins;
  const counts = Array.from(found.counts.subarray(card.place * bins, (card.place + 1) * bins));
  const [start, width] = [found.start[card.place], found.width[card.place]];
  const most = Math.max(1, ...counts);
  const bars = counts.map((count, index) => {
    const from = start + (index - 1) * width;
    const where = index === 0 ? `below ${format(start)}` : index === bins - 1 ? `above ${format(from)}` : `${format(from)} to ${format(from + width)}`;
    const bar = make("span", { title: `${where}: ${format(count)}` });
    bar.style.setProperty("--share", count / most);
    return bar;
  });
  const label = `Histogram of the activations, ${format(start)} to ${format(start + (bins - 2) * width)}`;
  return section("Activations", make("div", { class: "histogram", role: "img", "aria-label": label }, ...bars),
    make("p", { class: "ends quiet" }, make("span", {}, format(start)), make("span", {}, format(start + (bins - 2) * width))));
}

/** What other runs say of the neuron. */
async function others(card) {
  if (!meta.others.length) return null;
  const items = await Promise.all(meta.others.map(async (run) => {
    const read = async (name) => (await column(`${run.name}.${name}`)).values[card.row];
    const [value, q, rank] = await Promise.all([read(run.statistic), run.q ? read(run.q) : NaN, read("rank")]);
    const words = Number.isFinite(value)
      ? ` = ${format(value)}${Number.isFinite(q) ? `, q = ${format(q)}` : ""}; rank ${format(rank)} of ${format(meta.width)} in the layer by magnitude`
      : ": not of this neuron";
    const effects = run.effects[`${layerOf(card.row)}.${neuronOf(card.row)}`] ?? [];
    const lines = effects.map((one) => make("li", {}, `${one.kind} ablation of it alone, ${one.tokens}: loss ${one.delta_loss > 0 ? "+" : ""}${format(one.delta_loss)} nats `
      + `(${format(one.delta_loss_low)} to ${format(one.delta_loss_high)}), p = ${format(one.p)}`));
    return make("li", {}, make("span", { dir: "auto" }, run.title, ": "), term(run.statistic, run.meaning), words,
      lines.length ? make("ul", {}, ...lines) : null);
  }));
  return section("In other runs", make("ul", { class: "others" }, ...items));
}

/** Fills `place` with the card; `neighbours` are the rows before and after it, or −1. */
async function showCard(place, row, neighbours, isWanted) {
  const card = await cardOf(row);
  const ofOthers = await others(card);
  if (!isWanted()) return;
  const [before, after] = neighbours.map((other, index) => (other < 0 ? make("span", { class: "quiet" }, index ? "→" : "←")
    : make("a", { href: addressOf(other), rel: index ? "next" : "prev" }, index ? `${layerOf(other)}.${neuronOf(other)} →` : `← ${layerOf(other)}.${neuronOf(other)}`)));
  const label = card.statistics.get("property");
  const ev = card.statistics.get("ev_property");
  const title = make("h1", { tabindex: -1 }, `Layer ${layerOf(row)}, neuron ${neuronOf(row)}`);
  if (label) title.append(" ", make("span", { class: "label" }, Number.isFinite(ev) ? `${label} (${format(ev)})` : label));
  place.replaceChildren(
    make("nav", { "aria-label": "Neurons" }, make("a", { href: "#/", id: "back" }, "All neurons"), before, after),
    title, make("p", { class: "quiet", dir: "auto" }, meta.title),
    make("div", { class: "columns" },
      make("div", { class: "wide" },
        make("p", { class: "key" }, make("span", { class: "hot strong key-hot" }, "above 0"), " ", make("span", { class: "cold strong key-cold" }, "below 0"), " ",
          make("mark", {}, "the context's token"), "; the deeper the colour, the nearer to the strongest context. Colours are limited to the size of the context's own activation; "
          + "≥ and ≤ in a token's tooltip tell where."),
        contextList("Top contexts", card.ends[0]), contextList("Bottom contexts", card.ends[1])),
      make("div", {}, ...[ofOthers, explained(card), direct(card), histogram(card), statistics(card)].filter((one) => one))));
  document.title = `${layerOf(row)}.${neuronOf(row)} · ${meta.title}`;
  title.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

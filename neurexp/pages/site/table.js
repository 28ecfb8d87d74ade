"use strict";
// The table of all neurons. Only the rows that are seen exist, however many there are.

const ROW = 30; // pixels, as in style.css
const TALLEST = 8_000_000; // pixels: browsers cannot lay out much more

class Table {
  /** `grid`: the element that scrolls; `onSort(name)`: called with a column whose heading is pressed. */
  constructor(grid, onSort) {
    Object.assign(this, { grid, onSort, order: new Uint32Array(0), shown: [], active: 0, waiting: false });
    this.head = make("div", { role: "row", class: "row head", "aria-rowindex": 1 });
    this.body = make("div", { class: "body", role: "rowgroup" });
    grid.append(this.head, this.body);
    grid.addEventListener("scroll", () => this.paintSoon(), { passive: true });
    new ResizeObserver(() => this.paintSoon()).observe(grid);
    grid.addEventListener("keydown", (event) => this.key(event));
  }

  /** Shows these rows, in this order, with these columns: [{name, meaning, text, data}]. */
  show(order, shown, sort) {
    const before = this.order[this.active];
    Object.assign(this, { order, shown });
    this.active = Math.max(0, order.indexOf(before));
    this.grid.setAttribute("aria-rowcount", order.length + 1);
    this.grid.setAttribute("aria-colcount", shown.length + 1);
    this.grid.style.setProperty("--columns", ["5.5rem", ...shown.map((one) => `${Math.max(one.text ? 8.5 : 6, 2 + one.name.length * 0.52)}rem`)].join(" "));
    this.head.replaceChildren(...[{ name: "neuron", meaning: "layer.neuron" }, ...shown].map((one) => heading(one, sort, this.onSort)));
    this.body.style.height = `${Math.min(order.length * ROW, TALLEST)}px`;
    this.paint();
  }

  get room() {
    return Math.max(1, Math.floor((this.grid.clientHeight - ROW) / ROW));
  }

  /** The index in `order` of the first row that is seen. Beyond `TALLEST` scrolling is in proportion. */
  get first() {
    const over = this.order.length * ROW - TALLEST;
    if (over <= 0) return Math.floor(this.grid.scrollTop / ROW);
    const way = TALLEST - this.grid.clientHeight + ROW;
    return Math.floor((this.grid.scrollTop / way) * Math.max(0, this.order.length - this.room));
  }

  paintSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  paint() {
    const first = this.first;
    const count = Math.max(0, Math.min(this.order.length - first, this.room + 2));
    const top = Math.min(first * ROW, Math.max(0, TALLEST - count * ROW));
    const start = this.order.length * ROW > TALLEST ? this.grid.scrollTop : top;
    const rows = [];
    for (let index = first; index < first + count; index++) rows.push(this.row(index, start + (index - first) * ROW));
    this.body.replaceChildren(...rows);
    const active = document.getElementById(`row_${this.active}`);
    if (active) this.grid.setAttribute("aria-activedescendant", active.id);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  row(index, top) {
    const row = this.order[index];
    const address = make("a", { href: addressOf(row), tabindex: -1 }, `${layerOf(row)}.${neuronOf(row)}`);
    const cells = this.shown.map(({ data, text }) =>
      make("span", { role: "gridcell", class: text ? "text" : "number", dir: text ? "auto" : null },
        text ? visible(data.words[data.codes[row]]) : format(data.values[row])));
    const element = make("div",
      { role: "row", class: "row", id: `row_${index}`, "aria-rowindex": index + 2, "aria-selected": index === this.active },
      make("span", { role: "gridcell" }, address), ...cells);
    element.style.transform = `translateY(${top}px)`;
    element.addEventListener("click", () => { location.hash = addressOf(row); });
    return element;
  }

  /** Makes a row the chosen one, and scrolls it into sight. */
  choose(index) {
    this.active = Math.max(0, Math.min(this.order.length - 1, index));
    const first = this.first;
    const wanted = this.active < first ? this.active : this.active >= first + this.room ? this.active - this.room + 1 : first;
    if (wanted !== first) {
      const over = this.order.length * ROW - TALLEST;
      const way = TALLEST - this.grid.clientHeight + ROW;
      this.grid.scrollTop = over <= 0 ? wanted * ROW : Math.ceil((wanted / Math.max(1, this.order.length - this.room)) * way);
    }
    this.paint();
  }

  key(event) {
    if (event.target !== this.grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: this.room, PageUp: -this.room, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      this.choose(this.active + steps[event.key]);
    } else if (event.key === "Enter" && this.order.length) {
      location.hash = addressOf(this.order[this.active]);
    }
  }
}

function heading({ name, meaning, text }, sort, onSort) {
  const direction = sort.name === name ? (sort.down ? "descending" : "ascending") : "none";
  const arrow = { descending: " ↓", ascending: " ↑", none: "" }[direction];
  const button = make("button", { type: "button", title: meaning }, `${name}${arrow}`);
  button.addEventListener("click", () => onSort(name));
  return make("span", { role: "columnheader", "aria-sort": direction, class: text ? "text" : "" }, button);
}

/** A token with its spaces made visible at its ends. */
const visible = (token) => token.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));

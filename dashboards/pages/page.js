"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

// ------------------------------------------------------------------------------------------------------------------ charts

function draw(box) {
  const figure = page.figures[box.dataset.figure];
  const template = page.themes[dark.matches ? "dark" : "light"];
  return Plotly.react(box, figure.data, { ...figure.layout, template, autosize: true }, page.config);
}

// One after the other, from the top, each when the page has nothing else to do: it answers while its charts are drawn.
const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 20)); // Safari has none
async function drawCharts() {
  for (const box of document.querySelectorAll("[data-figure]")) {
    await new Promise((resolve) => idle(resolve, { timeout: 500 }));
    await draw(box);
  }
}

// ------------------------------------------------------------------------------------------------------------------ tables

const valueOf = (row, column) => {
  const cell = row.cells[column]; // the last cell of a published row spans several columns
  if (!cell) return "";
  const value = cell.dataset.value ?? cell.textContent;
  return value === "–" ? "" : value;
};

// Pinned rows stay on top; rows without a value stay last in both directions; equal values keep their order.
function sortTable(heading) {
  const now = heading.getAttribute("aria-sort");
  const figures = heading.classList.contains("num") && heading.textContent !== "Rank"; // the largest first; ranks and words the other way
  const ascending = now === "none" ? !figures : now === "descending";
  const column = heading.cellIndex;
  const body = heading.closest("table").tBodies[0];
  for (const other of heading.parentElement.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const rows = [...body.rows].map((row) => [row, valueOf(row, column), row.classList.contains("pinned")]);
  rows.sort(([, x, first], [, y, second]) => {
    if (first !== second) return second - first;
    if (x === "" || y === "") return (x === "") - (y === "");
    return ascending ? compare(x, y) : compare(y, x);
  });
  body.append(...rows.map(([row]) => row));
}

function addPins(table) {
  const heading = document.createElement("th");
  heading.scope = "col";
  heading.className = "pin";
  heading.textContent = "Pin";
  table.tHead.rows[0].prepend(heading);
  const body = table.tBodies[0];
  const order = new Map([...body.rows].map((row, place) => [row, place]));
  for (const row of body.rows) {
    const cell = row.insertCell(0);
    cell.className = "pin";
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `Pin ${row.querySelector("th").textContent.trim()}`);
    cell.append(button);
  }
  body.addEventListener("click", (event) => {
    const button = event.target.closest(".pin button");
    if (!button) return;
    const row = button.closest("tr");
    const pinned = row.classList.toggle("pinned");
    button.setAttribute("aria-pressed", String(pinned));
    if (pinned) {
      const last = [...body.querySelectorAll("tr.pinned")].filter((other) => other !== row).pop();
      if (last) last.after(row);
      else body.prepend(row);
    } else {
      const place = order.get(row);
      const next = [...body.rows].find((other) => other !== row && !other.classList.contains("pinned") && order.get(other) > place);
      if (next) next.before(row);
      else body.append(row);
    }
    button.focus();
  });
}

// Pinned rows are always shown.
function addFilter(tools, table) {
  const [find, status, count] = ["[data-find]", "[data-status]", ".count"].map((name) => tools.querySelector(name));
  const rows = [...table.tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = (!status.value || row.dataset.status === status.value) && words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits && !row.classList.contains("pinned");
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  find.addEventListener("input", filter);
  status.addEventListener("change", filter);
  filter();
  tools.hidden = false;
}

// ------------------------------------------------------------------------------------------------- comparison of two trials

function addComparison(tools) {
  const name = tools.dataset.pairs;
  const { labels, dice, pairs } = page.pairs[name];
  const [first, second] = tools.querySelectorAll("select");
  const finding = tools.querySelector(".finding");
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
  const compare = () => {
    const [a, b] = [Number(first.value), Number(second.value)];
    if (a === b) {
      finding.textContent = "Choose two different trials.";
      return;
    }
    let [difference, low, high, p] = pairs[a < b ? `${a}-${b}` : `${b}-${a}`];
    if (a > b) [difference, low, high] = [-difference, high === null ? null : -high, low === null ? null : -low];
    const interval = low === null ? "no interval for one case" : `95 % interval ${signed(low)} to ${signed(high)}`;
    const chance = p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`;
    const verdict = p > 0.05 ? "the cases do not tell them apart" : difference > 0 ? "the first is better" : "the second is better";
    finding.textContent = `Mean difference ${signed(difference)} (${interval}), Wilcoxon ${chance}: ${verdict}.`;
    const figure = page.figures[name];
    figure.data[1] = { ...figure.data[1], x: dice[a], y: dice[b] };
    figure.layout.xaxis.title.text = `Dice of trial ${labels[a]}`;
    figure.layout.yaxis.title.text = `Dice of trial ${labels[b]}`;
    const box = document.getElementById(name);
    if (box.classList.contains("js-plotly-plot")) draw(box);
  };
  first.addEventListener("change", compare);
  second.addEventListener("change", compare);
  compare();
  tools.hidden = false;
}

// ------------------------------------------------------------------------------------------------------------------- start

for (const table of document.querySelectorAll("table.ranking")) addPins(table);
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortTable(button.closest("th")));
}
for (const tools of document.querySelectorAll("[data-table]")) addFilter(tools, document.getElementById(tools.dataset.table));
for (const tools of document.querySelectorAll("[data-pairs]")) addComparison(tools);
for (const box of document.querySelectorAll("input[data-outline]")) {
  box.addEventListener("change", () => {
    box.closest("section").classList.toggle(`hide-${box.dataset.outline}`, !box.checked);
  });
}

function start() {
  drawCharts();
  dark.addEventListener("change", drawCharts);
}

// plotly.js is large: the page is shown, and answers, before it is read.
function loadPlotly() {
  const script = document.createElement("script");
  script.src = page.plotly;
  script.addEventListener("load", start);
  document.head.append(script);
}

window.addEventListener("load", () => {
  if (window.Plotly) start();
  else if (page.plotly) requestAnimationFrame(() => setTimeout(loadPlotly));
});

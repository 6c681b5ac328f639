"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function drawCharts() {
  const template = page.themes[dark.matches ? "dark" : "light"];
  for (const box of document.querySelectorAll("[data-figure]")) {
    const figure = page.figures[box.dataset.figure];
    Plotly.react(box, figure.data, { ...figure.layout, template, autosize: true }, page.config);
  }
}

// Rows without a value stay last in both directions; equal values keep their order.
function sortTable(heading) {
  const now = heading.getAttribute("aria-sort");
  const figures = heading.classList.contains("num") && heading.cellIndex > 0; // the largest first; ranks and words the other way
  const ascending = now === "none" ? !figures : now === "descending";
  const column = heading.cellIndex;
  const body = heading.closest("table").tBodies[0];
  for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => row.cells[column]?.dataset.value ?? ""; // the last cell of a published row spans several columns
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return ascending ? compare(x, y) : compare(y, x);
  });
  body.append(...rows);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortTable(button.closest("th")));
}

for (const box of document.querySelectorAll("input[data-outline]")) {
  box.addEventListener("change", () => {
    box.closest("section").classList.toggle(`hide-${box.dataset.outline}`, !box.checked);
  });
}

if (window.Plotly) {
  drawCharts();
  dark.addEventListener("change", drawCharts);
}

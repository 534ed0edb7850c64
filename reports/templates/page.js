"use strict";
document.documentElement.classList.add("js");
for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

// Sorting: best first, worst first, original order. Control rows live in bodies of their own and never move.
for (const table of document.querySelectorAll("table")) {
  const bodies = [...table.querySelectorAll("tbody.rows")].map((body) => ({ body, rows: [...body.rows] }));
  for (const button of table.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => sort(table, bodies, button));
  }
}

function sort(table, bodies, button) {
  const head = button.closest("th");
  const column = head.cellIndex;
  const first = button.dataset.better === "higher" ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const now = { none: first, [first]: other, [other]: "none" }[head.getAttribute("aria-sort")];
  for (const th of table.querySelectorAll("th[aria-sort]")) th.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", now);
  for (const { body, rows } of bodies) {
    body.append(...(now === "none" ? rows : [...rows].sort((a, b) => order(a, b, column, now === "ascending" ? 1 : -1))));
  }
}

function order(a, b, column, sign) {
  const [x, y] = [a, b].map((row) => row.cells[column].dataset.value);
  if (x === "" || y === "") return (x === "") - (y === "");
  return sign * (Number(x) - Number(y));
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const label = button.textContent;
    const done = await copy(document.getElementById(button.dataset.copy).content.textContent);
    button.textContent = done ? "Copied" : "Could not copy";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([document.getElementById("results").textContent], { type: "application/json" }));
  link.download = "results.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

// The contents list follows the reader: the first visible part is the current one.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const visible = new Set();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  const current = [...links.keys()].find((id) => visible.has(id));
  for (const [id, link] of links) link.toggleAttribute("aria-current", id === current);
});
for (const id of links.keys()) {
  const target = document.getElementById(id);
  if (target && !target.classList.contains("dataset")) seen.observe(target);
}

// Makes the heads of tables into buttons that sort the rows below. Without script the tables stay as they are.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const first = [...body.rows];
  const value = (row, i) => {
    const cell = row.cells[i];
    const text = (cell.dataset.v ?? cell.firstChild?.textContent ?? "").trim();
    const number = Number(text.replace(/[,%\s]/g, ""));
    return text === "" || text === "–" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const compare = (a, b) =>
    a === null || b === null ? 0 : typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const next = before === "descending" ? "ascending" : before === "ascending" ? null : "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      const rows = [...first];
      if (next) {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        // What has no value stands last, whichever way the rest is sorted.
        const none = (row) => (value(row, i) === null ? 1 : 0);
        rows.sort((a, b) => none(a) - none(b) || sign * compare(value(a, i), value(b, i)));
      }
      body.append(...rows);
    });
  });
}

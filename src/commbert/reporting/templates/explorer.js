"use strict";
// Everything that is shown goes through textContent: words are text of others.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const lists = {};
  for (const model of ["base", "run"]) {
    const index = new DataView(bytes(data[model].index).buffer);
    const cosine = new DataView(bytes(data[model].cosine).buffer);
    lists[model] = (row) => Array.from({ length: data.k }, (_, i) => {
      const at = 2 * (row * data.k + i);
      return { row: index.getUint16(at, true), cosine: cosine.getInt16(at, true) / data.steps };
    });
  }
  const lower = data.words.map((w) => w.toLowerCase());
  const rowOf = new Map();
  data.words.forEach((w, i) => { if (!rowOf.has(w)) rowOf.set(w, i); });
  const input = byId("word"), box = byId("suggestions"), shown = byId("shown"), said = byId("said");
  const SUGGESTED = 12;
  let options = [], active = -1, current = -1;

  const element = (name, text, className) => {
    const e = document.createElement(name);
    if (text !== undefined) e.textContent = text;
    if (className) e.className = className;
    return e;
  };
  const plain = (text) => Array.from(text).slice(0, 120)
    .map((c) => /[\p{C}\p{Zl}\p{Zp}]/u.test(c) ? `\\u{${c.codePointAt(0).toString(16)}}` : c).join("");
  const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
  const linkTo = (row) => {
    const a = element("a", data.words[row], "w");
    a.href = `#${encodeURIComponent(data.words[row])}`;
    return a;
  };

  // Rows that begin with the text, then rows that hold it; the most frequent words come first.
  const alike = (text) => {
    const wanted = text.trim().toLowerCase(), begin = [], within = [];
    if (!wanted) return [];
    for (let i = 0; i < lower.length && begin.length < SUGGESTED; i++) {
      const at = lower[i].indexOf(wanted);
      if (at === 0) begin.push(i);
      else if (at > 0 && within.length < SUGGESTED) within.push(i);
    }
    return begin.concat(within).slice(0, SUGGESTED);
  };
  const close = () => {
    box.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const suggest = () => {
    options = alike(input.value);
    box.replaceChildren(...options.map((row, i) => {
      const li = element("li");
      li.id = `option-${i}`;
      li.setAttribute("role", "option");
      li.setAttribute("aria-selected", "false");
      li.append(element("span", data.words[row], "w"), element("small", count(data.lines[row], "line", "lines")));
      // Before the field loses the focus.
      li.addEventListener("mousedown", (event) => { event.preventDefault(); go(row); });
      return li;
    }));
    close();
    box.hidden = options.length === 0;
    input.setAttribute("aria-expanded", String(!box.hidden));
  };
  const mark = (next) => {
    if (box.hidden || !options.length) return;
    if (active >= 0) box.children[active].setAttribute("aria-selected", "false");
    active = (next + options.length) % options.length;
    box.children[active].setAttribute("aria-selected", "true");
    box.children[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", `option-${active}`);
  };
  // The exact word, or else the only or most frequent one of the same letters in another case.
  const find = (text) => {
    const wanted = text.trim();
    if (rowOf.has(wanted)) return rowOf.get(wanted);
    return wanted ? lower.indexOf(wanted.toLowerCase()) : -1;
  };

  const table = (model, other, n) => {
    const own = lists[model](current).slice(0, n);
    const there = new Map(lists[other](current).map((x, i) => [x.row, i + 1]));
    const rows = own.map((x, i) => {
      const tr = element("tr"), word = element("th"), cosine = element("td", x.cosine.toFixed(3), "n c");
      word.scope = "row";
      word.append(linkTo(x.row));
      cosine.style.setProperty("--share", `${Math.max(0, Math.min(1, x.cosine)) * 100}%`);
      const rank = there.get(x.row);
      const elsewhere = element("td", rank ? `${rank}.` : "–", "n");
      if (!rank) {
        tr.className = "own";
        elsewhere.title = `not among its ${data.k} nearest there`;
      }
      tr.append(element("td", `${i + 1}.`, "n r"), word, cosine, element("td", data.lines[x.row].toLocaleString("en"), "n"),
        elsewhere);
      return tr;
    });
    byId(`rows-${model}`).replaceChildren(...rows);
  };
  const show = () => {
    const n = Number(byId("many").value);
    const ids = (model) => new Set(lists[model](current).slice(0, 10).map((x) => x.row));
    const base = ids("base"), common = [...ids("run")].filter((row) => base.has(row)).length;
    byId("asked").textContent = data.words[current];
    byId("about").textContent =
      `${count(data.lines[current], "training line", "training lines")}` +
      `${data.lines[current] ? "" : " (it stands in held-out files only)"}; most of its lines are in ` +
      `${data.areas[data.area[current]]}. ${common} of its ${base.size} nearest are the same under both models.`;
    table("base", "run", n);
    table("run", "base", n);
    shown.hidden = false;
  };
  const unknown = (text) => {
    shown.hidden = true;
    current = -1;
    said.className = "";
    const near = alike(text);
    said.replaceChildren(element("b", plain(text)), ` is not among the ${count(data.words.length, "word", "words")} of this page.`);
    near.slice(0, 6).forEach((row, i) => said.append(i ? ", " : " Words that hold it: ", linkTo(row)));
    document.title = title;
  };
  const title = document.title;
  const ask = (text) => {
    close();
    const row = find(text);
    if (row < 0) { unknown(text); return; }
    current = row;
    input.value = data.words[row];
    said.className = "heard";
    said.textContent = `Neighbours of ${data.words[row]}`;
    document.title = `${data.words[row]} – ${title}`;
    show();
  };
  const fromAddress = () => {
    let text = location.hash.slice(1);
    try { text = decodeURIComponent(text); } catch { /* taken as it stands: it is shown as a word that is unknown */ }
    if (text) ask(text);
  };
  const go = (row) => {
    const hash = `#${encodeURIComponent(data.words[row])}`;
    if (location.hash === hash) ask(data.words[row]);
    else location.hash = hash;
  };

  input.addEventListener("input", suggest);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (box.hidden) suggest();
      mark(event.key === "ArrowDown" ? active + 1 : active < 0 ? -1 : active - 1);
      event.preventDefault();
    } else if (event.key === "Escape") close();
  });
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const row = active >= 0 ? options[active] : find(input.value);
    if (row >= 0) go(row);
    else if (input.value.trim()) unknown(input.value.trim());
    close();
  });
  byId("any").addEventListener("click", () => go(Math.floor(Math.random() * Math.min(data.words.length, 2000))));
  byId("many").addEventListener("change", () => { if (current >= 0) show(); });
  window.addEventListener("hashchange", fromAddress);
  for (const cell of document.querySelectorAll("[data-row]")) cell.replaceChildren(linkTo(Number(cell.dataset.row)));
  byId("explorer").hidden = false;
  fromAddress();
  if (current < 0 && !location.hash) {
    const first = document.querySelector("[data-row]");
    if (first) ask(data.words[Number(first.dataset.row)]);
  }
})();

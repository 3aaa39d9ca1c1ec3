"use strict";
(() => {
  const { sources, charts, theme } = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

  // The contents are open beside a wide page, closed above a narrow one.
  const wide = matchMedia("(min-width: 72rem)");
  const arrange = () => { document.getElementById("menu").open = wide.matches; };
  wide.addEventListener("change", arrange);
  arrange();

  // What a fragment names may be folded up.
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  addEventListener("beforeprint", () => all("details:not(.numbers)").forEach((node) => { node.open = true; }));

  // Where a number comes from: on hover, and on focus, which the arrow keys move inside a table.
  const tip = document.getElementById("tip");
  const describe = (node) => {
    tip.replaceChildren(...sources[node.dataset.s].split("`").map((text, i) => i % 2 ? make("code", { textContent: text }) : text));
    tip.hidden = false;
    const box = node.getBoundingClientRect(), room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${scrollX + Math.max(8, Math.min(box.left, room))}px`;
    const above = box.bottom + tip.offsetHeight + 8 > innerHeight && box.top > tip.offsetHeight + 8;
    tip.style.top = `${scrollY + (above ? box.top - tip.offsetHeight - 6 : box.bottom + 6)}px`;
    node.setAttribute("aria-describedby", "tip");
  };
  const hide = () => { tip.hidden = true; };
  const number = (event) => event.target instanceof Element && event.target.closest(".n[data-s]");
  for (const name of ["mouseover", "focusin"]) {
    document.addEventListener(name, (event) => { const node = number(event); node ? describe(node) : hide(); });
  }
  const neighbours = (root) => {
    const nodes = all(".n[data-s]", root);
    nodes.forEach((node, i) => { node.tabIndex = i ? -1 : 0; });
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const node = number(event), step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0 }[event.key];
    if (!node || step === undefined) return;
    const nodes = all(".n[data-s]", node.closest("table, .tabulator, .claims"));
    let next = nodes[nodes.indexOf(node) + step];
    if (!step) {
      const x = node.getBoundingClientRect().left, y = node.getBoundingClientRect().top, sign = event.key === "ArrowDown" ? 1 : -1;
      const far = (other) => { const box = other.getBoundingClientRect(); return Math.abs(box.left - x) + 3 * Math.abs(box.top - y); };
      next = nodes.filter((other) => sign * (other.getBoundingClientRect().top - y) > 4).sort((a, b) => far(a) - far(b))[0];
    }
    if (!next) return;
    event.preventDefault();
    node.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  all("table, .claims").forEach(neighbours);

  // A table is plain until it is sorted, filtered or exported; then Tabulator takes its place.
  const value = (text) => {
    const found = /[-+−]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/i.exec(text || "");
    return found && /^[[(+−-]?\d/.test(text) ? parseFloat(found[0].replace(/,/g, "").replace("−", "-")) : NaN;
  };
  const compare = (a, b) => {
    const x = value(a), y = value(b);
    if (!isNaN(x) && !isNaN(y)) return x - y;
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
    return a.localeCompare(b);
  };
  const upgrade = (table, sorted) => new Promise((done) => {
    const heads = all("thead th", table);
    const rows = all("tbody tr", table).map((row) => {
      const entry = { cells: all("td", row) };
      entry.cells.forEach((cell, i) => { entry[`c${i}`] = cell.textContent; });
      return entry;
    });
    const columns = heads.map((head, i) => ({
      title: head.textContent, field: `c${i}`, cssClass: head.className, sorter: compare,
      accessorDownload: (text) => text.replaceAll("\u2212", "-"),
      formatter: (cell) => {
        const from = cell.getData().cells[i], span = make("span", { textContent: from.textContent, className: from.className });
        if (from.dataset.s) span.dataset.s = from.dataset.s;
        return span;
      },
    }));
    const place = make("div");
    table.classList.add("replaced");
    table.after(place);
    const grid = new Tabulator(place, {
      data: rows, columns, layout: "fitDataTable", renderVertical: "basic", movableColumns: false,
      initialSort: sorted === undefined ? [] : [{ column: `c${sorted}`, dir: "asc" }],
      columnDefaults: { resizable: false, headerTooltip: false }, placeholder: "no row fits",
    });
    grid.on("renderComplete", () => neighbours(place));
    grid.on("tableBuilt", () => {
      place.querySelector(".tabulator-tableholder").removeAttribute("tabindex");  // the region around it scrolls
      all(".tabulator-col", place).forEach((head, i) => {
        head.tabIndex = 0;
        head.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          head.click();
        });
        if (i === sorted) head.focus({ preventScroll: true });
      });
      done(grid);
    });
  });
  all(".block").forEach((block) => {
    const table = block.querySelector("table");
    if (!table || table.tBodies[0].rows.length < 2) return;
    const name = table.closest(".part, section").querySelector("h3, h2").textContent;
    let grid = null;
    const upgraded = (sorted) => grid || (grid = upgrade(table, sorted));
    all("thead th", table).forEach((head, i) => {
      const button = make("button", { type: "button", textContent: head.textContent, title: "Sort" });
      button.addEventListener("click", () => upgraded(i));
      head.replaceChildren(button);
    });
    const bar = make("div", { className: "bar" });
    if (table.tBodies[0].rows.length > 5) {
      const filter = make("input", { type: "search", placeholder: "Filter rows", ariaLabel: `Filter rows: ${name}` });
      filter.addEventListener("input", async () => {
        const wanted = filter.value.toLowerCase();
        (await upgraded()).setFilter((row) => row.cells.some((cell) => cell.textContent.toLowerCase().includes(wanted)));
      });
      bar.append(filter);
    }
    const save = make("button", { type: "button", textContent: "CSV", ariaLabel: `Save as CSV: ${name}` });
    save.addEventListener("click", async () => (await upgraded()).download("csv", `${block.id}.csv`));
    bar.append(save);
    table.closest(".scroll").before(bar);
  });

  // Charts take their colours from the page, so that they follow its theme. Expressions are interpreted, never compiled.
  const narrow = document.documentElement.clientWidth < 760;
  for (const node of all("[data-chart]")) {
    const spec = charts[node.dataset.chart];
    if (narrow && spec.columns) {
      spec.columns = 1;
      spec.spec.width = Math.min(spec.spec.width, 200);
    }
    const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: theme, defaultStyle: false };
    const drawn = () => vegaEmbed(node, spec, { ...options, tooltip: { disableDefaultStyle: true } }).then(() => {
      const picture = node.querySelector("svg");
      if (spec.columns > 1 && picture.clientWidth > node.clientWidth) { // small multiples wrap where the page ends
        spec.columns -= 1;
        return drawn();
      }
      // The picture as a whole has a label, and its numbers a table: single marks would only be noise.
      for (const part of all("[role], [aria-roledescription], [aria-label]", picture.parentNode)) {
        for (const name of ["role", "aria-roledescription", "aria-label"]) part.removeAttribute(name);
      }
    });
    drawn();
  }

  for (const root of all("[data-slider]")) {
    const pictures = all(".strip img", root), slider = make("img-comparison-slider", { tabIndex: 0 });
    const title = root.closest(".part").querySelector("h3").textContent;
    slider.setAttribute("role", "slider");
    slider.setAttribute("aria-label", `${title}: where left ends and right begins`);
    slider.setAttribute("aria-valuemin", "0");
    slider.setAttribute("aria-valuemax", "100");
    const told = () => slider.setAttribute("aria-valuenow", String(Math.round(slider.value ?? 50)));
    slider.addEventListener("slide", told);
    for (const select of all("select", root)) {
      const image = make("img", { slot: select.dataset.side });
      const show = () => { image.src = pictures[select.value].src; image.alt = pictures[select.value].alt; };
      select.addEventListener("change", show);
      show();
      slider.append(image);
    }
    root.querySelector(".stage").append(slider);
    told();
  }
  if (location.hash) reveal();
})();

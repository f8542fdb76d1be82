"use strict";
(() => {
  const columns = ["image", "truth", "class", "radius", "sigma", "votes", "drawn", "outcome", "why"];
  const text = new Set(["votes", "outcome", "why"]);
  const step = 100;
  const data = JSON.parse(document.getElementById("data").textContent);
  const choice = document.getElementById("run");
  const filter = document.getElementById("outcome");
  const more = document.getElementById("more");
  const body = document.querySelector("#images tbody");
  const head = document.querySelector("#images thead tr");
  let sorted = 0, down = false, shown = step;

  const share = (votes) => { const [k, n] = votes.replaceAll(",", "").split("/"); return n ? k / n : -1; };
  const key = (row) => columns[sorted] === "votes" ? share(row[sorted]) : row[sorted];

  function compare(a, b) {
    const [x, y] = [key(a), key(b)];
    if (x === y) return a[0] - b[0];
    if (x === null || x === "") return 1;
    if (y === null || y === "") return -1;
    return (x < y ? -1 : 1) * (down ? -1 : 1);
  }

  function cell(row, index, pictures) {
    const td = document.createElement("td"), name = columns[index], value = row[index];
    if (text.has(name)) td.className = "text";
    if (name === "outcome") td.classList.add(value);
    if (name === "image" && pictures && pictures[value]) {
      const image = new Image();
      image.src = pictures[value];
      image.alt = "";
      td.append(image);
    }
    const known = value !== null && value !== "";
    if (known) {
      if (name !== "outcome" && name !== "why") td.dataset.name = name;
      td.append(name === "radius" ? value.toFixed(4) : name === "drawn" ? value.toLocaleString("en") : value);
    }
    return td;
  }

  function draw() {
    const run = data.runs[Number(choice.value)];
    if (!run) return;
    const rows = run.rows.filter((row) => !filter.value || row[7] === filter.value).sort(compare);
    const visible = rows.slice(0, shown);
    body.replaceChildren(...visible.map((row) => {
      const line = document.createElement("tr");
      line.append(...columns.map((_, index) => cell(row, index, data.pictures[run.pictures])));
      return line;
    }));
    document.getElementById("count").textContent =
      `${visible.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} images`;
    more.hidden = visible.length === rows.length;
    [...head.children].forEach((th, index) => {
      th.ariaSort = index === sorted ? (down ? "descending" : "ascending") : "none";
      th.firstChild.textContent = columns[index] + (index === sorted ? (down ? " ▾" : " ▴") : "");
    });
  }

  columns.forEach((name, index) => {
    const th = document.createElement("th"), button = document.createElement("button");
    th.scope = "col";
    if (text.has(name)) th.className = "text";
    button.type = "button";
    button.append(name);
    button.addEventListener("click", () => {
      down = index === sorted ? !down : false;
      sorted = index;
      shown = step;
      draw();
    });
    th.append(button);
    head.append(th);
  });
  data.runs.forEach((run, index) => choice.add(new Option(run.name, index)));
  choice.addEventListener("change", () => { shown = step; draw(); });
  filter.addEventListener("change", () => { shown = step; draw(); });
  more.addEventListener("click", () => { shown += step; draw(); });
  draw();
})();

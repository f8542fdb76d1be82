"use strict";
(() => {
  const columns = ["image", "truth", "class", "radius", "sigma", "votes", "drawn", "outcome", "why"];
  const text = new Set(["image", "truth", "class", "votes", "outcome", "why"]);
  const step = matchMedia("(max-width: 44rem)").matches ? 8 : 20;
  const data = JSON.parse(document.getElementById("data").textContent);
  const choice = document.getElementById("run");
  const filter = document.getElementById("outcome");
  const more = document.getElementById("more");
  const body = document.querySelector("#images tbody");
  const head = document.querySelector("#images thead tr");
  let sorted = 0, down = false, shown = step;

  function make(tag, ...parts) {
    const element = document.createElement(tag);
    element.append(...parts);
    return element;
  }

  const share = (votes) => { const [k, n] = votes.replaceAll(",", "").split("/"); return n ? k / n : -1; };
  const key = (row) => columns[sorted] === "votes" ? share(row[sorted]) : row[sorted];
  const named = (run, number) => number === null ? "" : run.classes[number] || String(number);

  function compare(a, b) {
    const [x, y] = [key(a), key(b)];
    if (x === y) return a[0] - b[0];
    if (x === null || x === "") return 1;
    if (y === null || y === "") return -1;
    return (x < y ? -1 : 1) * (down ? -1 : 1);
  }

  function picture(run, id) {
    const image = new Image();
    image.src = data.pictures[run.pictures][id];
    image.alt = "";
    return image;
  }
  const pictured = (run, id) => data.pictures[run.pictures]?.[id];

  function said(run, name, value) {
    if (name === "radius") return value.toFixed(4);
    if (name === "truth" || name === "class") return named(run, value);
    return name === "drawn" ? value.toLocaleString("en") : value;
  }

  function cell(run, value, index) {
    const td = make("td"), name = columns[index];
    if (text.has(name)) td.className = "text";
    if (name === "outcome") td.classList.add(value);
    if (name === "image" && pictured(run, value)) td.append(picture(run, value));
    if (value !== null && value !== "") {
      if (name !== "outcome" && name !== "why") td.dataset.name = name;
      td.append(said(run, name, value));
    }
    return td;
  }

  function card(run, row) {
    const [id, truth, answer, radius, , , , outcome] = row;
    const below = make("small", outcome === "wrong" ? `${named(run, answer)}, not ${named(run, truth)}` : named(run, answer));
    below.className = outcome;
    const figure = make("figure", picture(run, id), radius.toFixed(4), below);
    figure.title = `image ${id}`;
    return figure;
  }

  function drawEnds(run) {
    const certified = run.rows.filter((row) => row[2] !== null && pictured(run, row[0]));
    certified.sort((a, b) => b[3] - a[3] || a[0] - b[0]);
    document.getElementById("ends").hidden = !certified.length;
    const fill = (id, rows) => document.getElementById(id).replaceChildren(...rows.map((row) => card(run, row)));
    fill("largest", certified.slice(0, data.ends));
    fill("smallest", certified.slice(-data.ends).reverse());
  }

  function draw() {
    const run = data.runs[Number(choice.value)];
    if (!run) return;
    const rows = run.rows.filter((row) => !filter.value || row[7] === filter.value).sort(compare);
    const visible = rows.slice(0, shown);
    body.replaceChildren(...visible.map((row) => make("tr", ...row.map((value, index) => cell(run, value, index)))));
    document.getElementById("count").textContent =
      `${visible.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} images`;
    more.hidden = visible.length === rows.length;
    [...head.children].forEach((th, index) => {
      th.ariaSort = index === sorted ? (down ? "descending" : "ascending") : "none";
      th.firstChild.textContent = columns[index] + (index === sorted ? (down ? " ▾" : " ▴") : "");
    });
    drawEnds(run);
    cues();
  }

  /* A table that is cut off on the right fades there, and a line below says so. */
  function cues() {
    document.querySelectorAll(".scroll").forEach((box) => {
      box.classList.toggle("cut", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
    });
  }
  document.querySelectorAll(".scroll").forEach((box) => {
    const cue = make("p", "more to the right →");
    cue.className = "cue";
    box.after(cue);
    box.tabIndex = 0;
    box.addEventListener("scroll", cues, { passive: true });
  });
  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", cues));
  addEventListener("resize", cues);

  /* The values of every curve at the radius under the pointer, or of the slider. */
  function follow(svg) {
    const [left, right, largest] = svg.dataset.frame.split(" ").map(Number);
    const box = document.querySelector(".values"), slider = box.querySelector("input");
    const view = svg.viewBox.baseVal, cursor = document.createElementNS(svg.namespaceURI, "line");
    cursor.setAttribute("class", "cursor");
    svg.append(cursor);
    const show = (place) => {
      const r = data.grid[place], x = view.width * (left + (right - left) * r / largest);
      const ends = { x1: x, x2: x, y1: 0.03 * view.height, y2: 0.86 * view.height };
      Object.entries(ends).forEach(([name, value]) => cursor.setAttribute(name, value));
      slider.value = place;
      box.querySelector("output").textContent = r;
      box.querySelectorAll("li").forEach((line, index) => {
        const point = data.runs[index].curve[place];
        line.querySelector("b").textContent = `${point[0].toFixed(1)} %`;
        line.querySelector("small").textContent = `${point[1].toFixed(1)} to ${point[2].toFixed(1)}`;
      });
    };
    const point = (event) => {
      const frame = svg.getBoundingClientRect(), share = (event.clientX - frame.left) / frame.width;
      const r = largest * (share - left) / (right - left), last = data.grid.length - 1;
      show(Math.min(last, Math.max(0, Math.round(r / data.grid[1]))));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    slider.max = data.grid.length - 1;
    slider.addEventListener("input", () => show(Number(slider.value)));
    box.hidden = false;
    show(Math.round(slider.max / 2));
  }
  document.querySelectorAll("#curve figure svg").forEach(follow);

  columns.forEach((name, index) => {
    const button = make("button", name), th = make("th", button);
    th.scope = "col";
    if (text.has(name)) th.className = "text";
    button.type = "button";
    button.addEventListener("click", () => {
      down = index === sorted ? !down : false;
      sorted = index;
      shown = step;
      draw();
    });
    head.append(th);
  });
  data.runs.forEach((run, index) => choice.add(new Option(run.name, index)));
  choice.addEventListener("change", () => { shown = step; draw(); });
  filter.addEventListener("change", () => { shown = step; draw(); });
  more.addEventListener("click", () => { shown += 5 * step; draw(); });
  draw();
})();

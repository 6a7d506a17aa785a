"use strict";
// Draws the figures in the colours of the page's theme, ties the charts of a model together, and leads to decisions.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const charts = [...document.querySelectorAll("[data-figure]")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const fine = window.matchMedia("(pointer: fine)").matches;
  const axis = { color: "muted", gridcolor: "grid", zeroline: false, fixedrange: true, ticks: "" };

  // Names of colours become colours; every other text is left as it is.
  function painted(value, colours, key = "") {
    if (Array.isArray(value)) return value.map((part) => painted(part, colours, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, painted(part, colours, name)]));
    }
    const coloured = typeof value === "string" && key.endsWith("color");
    return coloured ? colours.getPropertyValue("--" + value).trim() || value : value;
  }

  // Names in a chart, most important first, without those that would touch one already placed.
  function readable(annotations, { xaxis, yaxis }, width, height) {
    const place = (value, [from, to], length) => ((value - from) / (to - from)) * length;
    const time = xaxis.range.map((end) => Date.parse(end));
    const placed = [];
    for (const annotation of annotations) {
      const wide = annotation.text.length * 6.6;
      const shift = { left: 0, center: wide / 2, right: wide }[annotation.xanchor];
      const left = place(Date.parse(annotation.x), time, width) - shift;
      const top = place(annotation.y, yaxis.range, height);
      const touches = (other) => left < other.right + 6 && other.left < left + wide + 6 && Math.abs(top - other.top) < 16;
      if (!placed.some(touches)) placed.push({ annotation, left, right: left + wide, top });
    }
    return placed.map(({ annotation }) => annotation);
  }

  function layoutOf(own, chart) {
    const [width, height] = [chart.clientWidth - 96, chart.clientHeight - 46];
    return {
      width: chart.clientWidth,
      height: chart.clientHeight,
      margin: { l: 84, r: 12, t: 8, b: 38 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: "muted" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      uniformtext: { minsize: 10, mode: "hide" },
      hovermode: "x",
      dragmode: fine ? "zoom" : false,
      hoverlabel: { bgcolor: "raised", bordercolor: "rule", font: { color: "ink", size: 12 }, align: "left" },
      ...own,
      annotations: own.annotations ? readable(own.annotations, own, width, height) : [],
      xaxis: { ...axis, fixedrange: !fine, ticks: "outside", tickcolor: "grid", tickangle: 0, nticks: Math.max(4, Math.floor(width / 85)), ...own.xaxis, title: { text: own.xaxis.title || "" } },
      yaxis: { ...axis, ...own.yaxis, title: { text: own.yaxis.title || "", standoff: 8 } },
    };
  }

  function draw(element) {
    const colours = getComputedStyle(element);
    for (const chart of charts) {
      const { data, layout } = figures[chart.dataset.figure];
      const figure = painted({ data, layout: layoutOf(layout, chart) }, colours);
      Plotly.react(chart, figure.data, figure.layout, { displayModeBar: false, doubleClick: "reset" });
    }
  }

  function tieTogether(stack) {
    const members = [...stack.querySelectorAll("[data-figure]")];
    const guide = Object.assign(document.createElement("div"), { className: "guide", hidden: true });
    stack.append(guide);
    for (const chart of members) {
      chart.on("plotly_hover", ({ points: [point] }) => {
        if (point.data.orientation === "h") return;
        const left = chart.getBoundingClientRect().left - stack.getBoundingClientRect().left;
        guide.style.left = `${left + point.xaxis._offset + point.xaxis.d2p(point.x)}px`;
        guide.hidden = false;
      });
      chart.on("plotly_unhover", () => { guide.hidden = true; });
      chart.on("plotly_click", ({ points: [point] }) => showDecision(stack, point.customdata));
      chart.on("plotly_relayout", (change) => {
        const range = change["xaxis.range[0]"] ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : null;
        if (range) follow(members, chart, range);
      });
    }
  }

  function follow(members, leader, range) {
    for (const chart of members) {
      const same = chart === leader || chart.layout.xaxis.range.join() === range.join();
      if (!same) Plotly.relayout(chart, { "xaxis.range": [...range] });
    }
  }

  function showDecision(stack, id) {
    const decisions = stack.parentElement.querySelector(".decisions");
    const row = [...decisions.querySelectorAll("[data-decision]")].find((each) => each.dataset.decision === id);
    if (!row) return;
    decisions.open = true;
    if (row.classList.contains("uneventful")) decisions.querySelector(".only-busy").checked = false;
    for (const found of document.querySelectorAll("tr.found")) found.classList.remove("found");
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
  }

  draw(document.documentElement);
  document.querySelectorAll("[data-stack]").forEach(tieTogether);
  let settled;
  window.addEventListener("resize", () => {
    clearTimeout(settled);
    settled = setTimeout(() => draw(document.documentElement), 120);
  });
  dark.addEventListener("change", () => draw(document.documentElement));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    draw(document.querySelector(".on-paper"));
  });
  window.addEventListener("afterprint", () => draw(document.documentElement));
})();

"use strict";
(() => {
  const charts = [...document.querySelectorAll("[data-figure]")];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = { displayModeBar: false, responsive: true, plotlyServerURL: "", showLink: false };

  const PRINT_WIDTH = 660; // px; fits A4 and Letter, whose print width the page cannot know beforehand
  const printing = () => document.documentElement.classList.contains("print");

  const themed = (layout) => {
    const axis = (own) => ({
      gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, ...own,
    });
    return {
      ...layout, ...(printing() ? { width: PRINT_WIDTH } : {}),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 12, family: "system-ui, sans-serif" },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    };
  };
  const draw = () => Promise.all(charts.map((place) => {
    const data = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    return Plotly.react(place, data.data, themed(data.layout), config);
  }));

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => { document.documentElement.classList.add("print"); draw(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("print"); draw(); });
})();

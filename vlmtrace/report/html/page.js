/* Draws the charts in the page's colours, and again when these change. */
"use strict";

(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const ink = colour("--ink"), soft = colour("--soft"), grid = colour("--grid"), rule = colour("--rule");
    const axis = {
      gridcolor: grid, linecolor: rule, tickcolor: rule, tickfont: { color: soft }, zerolinecolor: rule,
      title: { font: { color: soft, size: 12 }, standoff: 8 },
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
        xaxis: axis,
        yaxis: axis,
        legend: { bgcolor: "rgba(0,0,0,0)", font: { color: ink } },
        hoverlabel: { bgcolor: colour("--raised"), bordercolor: rule, font: { color: ink, size: 12 }, align: "left" },
        annotationdefaults: { font: { color: soft } },
        title: { font: { color: ink, size: 14 } },
        coloraxis: { colorbar: { outlinewidth: 0 } },
      },
    };
  };

  const draw = (id, chart, template) => {
    const layout = structuredClone(chart.layout);
    const top = layout.title ? 44 : layout.legend ? 40 : 12;
    Plotly.react(
      id,
      structuredClone(chart.traces),
      { ...layout, template, height: chart.height, margin: { l: 8, r: 14, t: top, b: 44 }, dragmode: false },
      config,
    );
  };

  const drawAll = () => {
    const template = theme();
    for (const [id, chart] of Object.entries(charts)) draw(id, chart, template);
  };

  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  document.documentElement.dataset.drawn = String(Object.keys(charts).length);
})();

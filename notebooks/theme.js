// Figures follow the palette of the page, which Material keeps on the body (of the outer page, in a frame).
const outer = window.frameElement ? window.parent.document.body : document.body;

function follow() {
  document.body.style.background = getComputedStyle(outer).backgroundColor;
  const template = themes[outer.dataset.mdColorScheme] ?? themes.default;
  for (const figure of document.querySelectorAll(".figure")) Plotly.relayout(figure, { template });
}

new MutationObserver(follow).observe(outer, { attributeFilter: ["data-md-color-scheme"] });
follow();

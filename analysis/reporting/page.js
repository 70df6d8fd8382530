"use strict";
(() => {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const templates = read("templates");
  const plots = [...document.querySelectorAll(".plot")];
  const config = read("config");

  // Light and dark: that of the system, until the button is used.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const template = () => templates[isDark() ? "dark" : "light"];
  const retheme = () => {
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    return Promise.all(plots.map((plot) => Plotly.update(plot, {}, { template: template() })));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    retheme();
  });
  system.addEventListener("change", retheme);

  const draw = (plot) => {
    const { data, layout } = structuredClone(figures[plot.dataset.figure]);
    return Plotly.newPlot(plot, data, { ...layout, template: template() }, config);
  };

  // Plotly's own buttons as buttons of the page.
  for (const group of document.querySelectorAll(".switch")) {
    const name = group.dataset.figure;
    const plot = document.getElementById(name);
    const buttons = [...group.querySelectorAll("button")];
    for (const each of buttons) {
      each.addEventListener("click", () => {
        const { method, args } = figures[name].menus[each.dataset.menu].buttons[each.dataset.button];
        Plotly[method](plot, ...structuredClone(args));
        const { text, subtitle } = plot.layout.title;
        const words = [text, subtitle?.text, "The data are in the table below."];
        plot.setAttribute("aria-label", words.filter(Boolean).join(". ").replaceAll("<br>", " "));
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === each));
      });
    }
  }

  // Head cards: a click on the heat map and the list of heads choose the same.
  const explorers = [...document.querySelectorAll(".explorer")].map((box) => {
    const plot = box.querySelector(".plot");
    const heads = box.querySelector(".of-head");
    const tasks = box.querySelector(".of-task");
    const every = box.querySelector(".every-card");
    const told = box.querySelector(".told");
    const cards = [...box.querySelectorAll("template")];
    const shown = box.querySelector(".cards");
    const prefix = box.dataset.prefix;
    let chosen = heads.value;

    const mark = () => {
      const [layer, head] = chosen.match(/\d+/g).map(Number);
      const frame = {
        type: "rect", x0: head - 0.5, x1: head + 0.5, y0: layer - 0.5, y1: layer + 0.5,
        line: { color: box.dataset.colour, width: 4 },
      };
      const { layout } = figures[plot.dataset.figure];
      return Plotly.relayout(plot, { shapes: [...(layout.shapes || []), frame] });
    };
    const show = () => {
      const wanted = cards.filter((c) => every.checked || c.dataset.card === prefix + chosen);
      shown.replaceChildren(...wanted.map((c) => c.content.cloneNode(true)));
    };
    const choose = (head, note = true) => {
      chosen = head;
      const known = cards.some((c) => c.dataset.card === prefix + head);
      heads.value = known ? head : "";
      told.textContent = known
        ? `Chosen: ${head}. Its card is below.`
        : `Chosen: ${head}. No task chose it and no edit changes it, so it has no card.`;
      show();
      mark();
      if (note) history.replaceState(null, "", "#" + prefix + head);
    };
    const reveal = () => {
      const card = document.getElementById(prefix + chosen);
      if (!card) return;
      const { top, bottom, height } = card.getBoundingClientRect();
      const visible = Math.min(bottom, innerHeight) - Math.max(top, 0);
      if (visible < Math.min(height, innerHeight) / 2) card.scrollIntoView({ block: "nearest" });
    };
    const listen = () => plot.on("plotly_click", ({ points: [point] }) => {
      if (point.xaxis._id !== "x" || point.yaxis._id !== "y") return;
      choose(`L${point.y}H${point.x}`);
      reveal();
    });
    heads.addEventListener("change", () => choose(heads.value));
    every.addEventListener("change", show);
    tasks.addEventListener("change", async () => {
      plot.dataset.figure = tasks.value;
      plot.setAttribute("aria-label", tasks.selectedOptions[0].dataset.words);
      await draw(plot);
      listen();
      mark();
    });
    const follow = () => {
      const wanted = location.hash.slice(1);
      if (wanted.startsWith(prefix) && /^L\d+H\d+$/.test(wanted.slice(prefix.length))) {
        choose(wanted.slice(prefix.length), false);
        box.scrollIntoView();
      }
    };
    addEventListener("hashchange", follow);
    return () => {
      listen();
      choose(chosen, false);
      follow();
    };
  });

  // On paper: light, and what is wider than the paper is made smaller. A figure that takes the
  // width of the window is drawn anew for that.
  const PAPER = 680;
  const DRAWN = 900;
  const fit = (element, width) => {
    element.style.zoom = width > PAPER ? PAPER / width : "";
  };
  addEventListener("beforeprint", () => {
    for (const plot of plots) {
      const own = figures[plot.dataset.figure].layout.width;
      Plotly.update(plot, {}, { template: templates.light, width: own || DRAWN });
      fit(plot, own || DRAWN);
    }
    for (const table of document.querySelectorAll("main table")) fit(table, table.offsetWidth);
  });
  addEventListener("afterprint", () => {
    for (const plot of plots) {
      plot.style.zoom = "";
      const own = figures[plot.dataset.figure].layout.width;
      Plotly.update(plot, {}, { template: template(), width: own || null, autosize: !own });
    }
    for (const table of document.querySelectorAll("main table")) table.style.zoom = "";
  });

  button.hidden = false;
  button.textContent = isDark() ? "Light theme" : "Dark theme";
  Promise.all(plots.map(draw)).then(() => {
    for (const begin of explorers) begin();
    root.dataset.drawn = "";
  });
})();

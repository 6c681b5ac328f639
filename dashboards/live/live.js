"use strict";

window.dash_clientside = {
  ...window.dash_clientside,
  live: {
    // The system's light or dark scheme, now and whenever it changes.
    scheme: () => {
      const dark = window.matchMedia("(prefers-color-scheme: dark)");
      dark.addEventListener("change", () => dash_clientside.set_props("scheme", { data: dark.matches ? "dark" : "light" }));
      return dark.matches ? "dark" : "light";
    },
    // Dash writes the user's zoom into its own copy of the figure, where plotly.js no longer knows it for the user's.
    zoomed: (drawn, shown) => {
      if (shown.layout.uirevision !== drawn.layout.uirevision) return drawn;
      const layout = { ...drawn.layout };
      for (const [name, axis] of Object.entries(shown.layout)) {
        if (/^[xy]axis/.test(name) && axis.autorange === false) {
          layout[name] = { ...layout[name], range: axis.range, autorange: false };
        }
      }
      return { ...drawn, layout };
    },
  },
};

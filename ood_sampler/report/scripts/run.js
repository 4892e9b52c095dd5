// The page of a run: downloads of what is shown, and the start.

byId("save-png").addEventListener("click", () => savePng("samples.png", kept, view.shown));
byId("save-npy").addEventListener("click", () =>
  save("samples-uint8.npy", npy(kept, view.shown), "application/octet-stream"));
byId("save-csv").addEventListener("click", () => {
  const keys = ["number", "file", "near_copy", "captured", "authentic", "realism", "distance",
    "blend_pair", "blend_five"];
  const cell = (value) => (typeof value === "boolean" ? Number(value) : value ?? "");
  const lines = view.shown.map((place) => keys.map((key) => cell(samples[place][key])).join(","));
  save("samples-shown.csv", `${[keys.join(","), ...lines].join("\n")}\n`, "text/csv");
});
byId("save-npy").title = kept.exact
  ? `NumPy array of bytes, shape (N, ${kept.edge}, ${kept.edge}, 3)`
  : `NumPy array of bytes, reduced to ${kept.edge} pixels: the files beside this page are whole`;
byId("reset").addEventListener("click", () => {
  byId("order").value = "number";
  byId("only-copies").checked = false;
  byId("only-captured").checked = false;
  select(null);
});

resize();
showSheet();
// images must be there before they can be drawn on a canvas
Promise.all(Object.values(sheets).map((sheet) => sheet.ready)).then(() => {
  drawMap();
  root.dataset.ready = "yes";
});

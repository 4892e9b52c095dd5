// The samples of a run: which are shown, in which order, and their thumbnails.

const sheets = Object.fromEntries(
  Object.entries(data.sheets).map(([kind, stored]) => [kind, new Sheet(stored)]));
const samples = data.samples;
const kept = sheets.samples;

const RULES = {
  number: (sample) => sample.number,
  // infinite for a sample that equals a real image
  worst: (sample) => sample.realism ?? Infinity,
  best: (sample) => -(sample.realism ?? Infinity),
  copy: (sample) => sample.distance,
  blend: (sample) => -(sample.blend_pair ?? -Infinity),
};

const view = {
  selected: null, // places on the map's sheets by kind, or null for all
  shown: [],
  onOpen: () => {},
};

function nameOf(sample) {
  const marks = [sample.near_copy && "near-copy", sample.captured && "captured"].filter(Boolean);
  return `Sample ${sample.number}${marks.length ? ` (${marks.join(", ")})` : ""}`;
}

function thumbnail(kind, index, properties = {}) {
  const button = element("button", { type: "button", className: "thumb", ...properties });
  return sheets[kind].style(button, index);
}

function chosen() {
  const rule = RULES[byId("order").value];
  const found = samples.map((_, place) => place).filter((place) => {
    const sample = samples[place];
    if (byId("only-copies").checked && !sample.near_copy) return false;
    if (byId("only-captured").checked && !sample.captured) return false;
    return !view.selected || view.selected.samples.has(place);
  });
  // equal ones stay in their order
  return found.sort((a, b) => {
    const [first, second] = [rule(samples[a]), rule(samples[b])];
    return first === second ? a - b : first - second;
  });
}

const thumbs = samples.map((sample, place) => {
  const name = nameOf(sample);
  const made = thumbnail("samples", place, {
    title: `${name}\nrealism ${written(sample.realism)}, distance ${written(sample.distance)}`,
    "aria-label": name,
    tabIndex: -1,
  });
  made.classList.toggle("copy", Boolean(sample.near_copy));
  made.addEventListener("click", () => view.onOpen(place));
  return made;
});

function showSheet() {
  view.shown = chosen();
  const sheet = byId("sheet");
  const order = view.shown.map((place) => thumbs[place]);
  thumbs.forEach((thumb) => { thumb.tabIndex = -1; });
  if (order.length) order[0].tabIndex = 0;
  sheet.replaceChildren(...order);
  byId("count").textContent = order.length
    ? `${order.length} of ${samples.length} samples shown`
      + `${view.selected ? ", those in the rectangle on the map" : ""}.`
    : "No sample passes: remove a filter or clear the selection on the map.";
  showCompany();
}

const WORDS = {
  few_shot: "few-shot images", held_out: "held-out images", in_domain: "in-domain samples",
};

/** Images of the other sets in the selected rectangle. */
function showCompany() {
  const company = byId("company");
  company.replaceChildren();
  if (!view.selected) return;
  for (const [kind, words] of Object.entries(WORDS)) {
    const places = [...(view.selected[kind] ?? [])];
    if (!places.length) continue;
    const images = places.map((place) => sheets[kind].style(
      element("span", { className: "thumb", role: "img", "aria-label": `${words} ${place}` }), place));
    const box = element("div", { className: "sheet" }, images);
    box.classList.toggle("pixelated", sheets[kind].edge <= SMALL);
    const heading = `With them ${places.length} ${words}`;
    company.append(element("p", { className: "note", textContent: heading }), box);
  }
}

function resize() {
  for (const id of ["sheet", "company"]) {
    byId(id).style.setProperty("--edge", `${byId("size").value}px`);
  }
}

byId("sheet").classList.toggle("pixelated", kept.edge <= SMALL);
byId("sheet").addEventListener("keydown", (event) => arrows(byId("sheet"), event));
byId("sheet").addEventListener("focusin", (event) => {
  thumbs.forEach((thumb) => { thumb.tabIndex = thumb === event.target ? 0 : -1; });
});
for (const id of ["order", "only-copies", "only-captured"]) {
  byId(id).addEventListener("change", showSheet);
}
byId("size").value = kept.edge <= 32 ? 64 : 96;
byId("size").addEventListener("input", resize);

// One sample, enlarged: beside a few-shot image, with its numbers and what it resembles.

const detail = { place: 0, other: 0, band: 0 };
const dialog = byId("detail");

const NUMBERS = [
  ["realism", "realism", "1 or more: within the held-out images, as precision counts"],
  ["distance", "distance to nearest few-shot", "in the space of features"],
  ["blend_pair", "blend of two", "share of its pixels' variance that two few-shot images explain"],
  ["blend_five", "blend of five", "the same for five"],
];

function marks(sample) {
  const found = [];
  const add = (kind, text, title) =>
    found.push(element("span", { className: `mark ${kind}`, textContent: text, title }));
  if (sample.near_copy) {
    add("copy", "near-copy", "nearer to a few-shot image than 99% of held-out images are");
  }
  if (sample.captured) {
    add("captured", "captured", "most of its neighbours belong to the model's own domain");
  }
  if (sample.authentic) {
    add("fine", "authentic",
      "farther from its nearest few-shot image than that one from its own nearest");
  }
  return found;
}

function named(place, text, share) {
  const button = thumbnail("few_shot", place, {
    title: data.few_shot[place],
    "aria-label": `few-shot image ${data.few_shot[place]}, ${text}`,
    "aria-pressed": String(place === detail.other),
  });
  button.addEventListener("click", () => {
    detail.other = place;
    showOther();
  });
  const parts = [button, element("div", { textContent: text })];
  if (share !== undefined) {
    const bar = element("span");
    bar.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
    parts.push(element("div", { className: "bar" }, [bar]));
  }
  parts.push(element("div", { className: "note", textContent: data.few_shot[place] }));
  const box = element("div", { className: "named" }, parts);
  box.dataset.place = place;
  return box;
}

function showOther() {
  const { other, band } = detail;
  drawView(byId("detail-other"), sheets.few_shot, other, band);
  byId("detail-other").setAttribute("aria-label", `few-shot image ${data.few_shot[other]}`);
  byId("detail-other-name").textContent = `few-shot image ${data.few_shot[other]}`;
  for (const box of dialog.querySelectorAll(".named")) {
    box.firstChild.setAttribute("aria-pressed", String(Number(box.dataset.place) === other));
  }
}

function showDetail(place) {
  const sample = samples[place];
  Object.assign(detail, { place, other: sample.neighbours[0][0] });
  byId("detail-title").textContent = nameOf(sample);
  byId("detail-marks").replaceChildren(...marks(sample));
  const rows = NUMBERS.map(([key, words, title]) => element("tr", { title }, [
    element("th", { scope: "row", textContent: words }),
    element("td", { textContent: written(sample[key]) })]));
  const link = element("a", { href: sample.file, textContent: sample.file });
  rows.push(element("tr", {}, [
    element("th", { scope: "row", textContent: "file" }),
    element("td", {}, [link])]));
  byId("detail-numbers").replaceChildren(...rows);
  byId("detail-sample").setAttribute("aria-label", nameOf(sample));
  byId("detail-nearest").replaceChildren(...sample.neighbours.map(([at, distance]) =>
    named(at, `distance ${written(distance)}`)));
  byId("detail-parts").replaceChildren(...sample.parts.filter(([, share]) => share >= 0.00005)
    .map(([at, share]) => named(at, `${(100 * share).toFixed(1)}%`, share)));
  drawBoth();
  const at = view.shown.indexOf(place);
  byId("detail-before").disabled = at <= 0;
  byId("detail-after").disabled = at < 0 || at >= view.shown.length - 1;
}

function drawBoth() {
  drawView(byId("detail-sample"), kept, detail.place, detail.band);
  showOther();
  colourBar(byId("colour-bar"), detail.band, (band) => {
    detail.band = band;
    drawBoth();
  });
}

function openDetail(place) {
  showDetail(place);
  if (!dialog.open) dialog.showModal();
  byId("detail-close").focus();
}

function step(by) {
  const at = view.shown.indexOf(detail.place) + by;
  if (at >= 0 && at < view.shown.length) showDetail(view.shown[at]);
}

view.onOpen = openDetail;
byId("detail-before").addEventListener("click", () => step(-1));
byId("detail-after").addEventListener("click", () => step(1));
byId("detail-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT") return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
// the focus returns to the sample last looked at
dialog.addEventListener("close", () => thumbs[detail.place].focus());
for (const box of ["detail-nearest", "detail-parts"]) {
  byId(box).style.setProperty("--edge", "5.5rem");
  byId(box).classList.toggle("pixelated", sheets.few_shot.edge <= SMALL);
}
readout(byId("detail-sample"), () => ({ sheet: kept, index: detail.place, band: detail.band }),
  { set textContent(text) { byId("readout").textContent = text; } });
readout(byId("detail-other"), () => ({ sheet: sheets.few_shot, index: detail.other, band: detail.band }),
  { set textContent(text) { byId("readout").textContent = text; } });

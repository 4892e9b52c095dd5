// Samples of several runs: a slider per setting, and the images of the run that they name.

const samplesOf = new Sheet(data.sheet);
const values = data.axes.map((axis) => axis.values.length - 1).map(() => 0);
let pinned = null;

const textOf = (axis, at) => `${data.axes[axis].name} = ${data.axes[axis].values[at]}`;

function runAt(places) {
  return data.runs.find((run) => run.at.every((at, axis) => at === places[axis]));
}

/** Thumbnails, numbers and address of a run. */
function panel(run, places) {
  const heading = element("h3", {
    textContent: places.map((at, axis) => textOf(axis, at)).join(", ") || "samples",
  });
  if (!run) {
    const note = element("p", { className: "note", textContent: "There is no run with these settings." });
    return element("div", { className: "panel" }, [heading, note]);
  }
  const thumbs = Array.from({ length: run.count }, (_, k) => samplesOf.style(element("span", {
    className: "thumb", role: "img", "aria-label": `sample ${k}` }), run.first + k));
  const sheet = element("div", { className: "sheet" }, thumbs);
  sheet.style.setProperty("--edge", samplesOf.edge <= 32 ? "64px" : "96px");
  sheet.classList.toggle("pixelated", samplesOf.edge <= SMALL);
  const rows = run.numbers.map(([name, text]) => element("tr", {}, [
    element("th", { scope: "row", textContent: name }), element("td", { textContent: text })]));
  const table = element("table", { className: "text" }, [element("tbody", {}, rows)]);
  const parts = [heading, sheet, table];
  if (run.link) parts.push(element("p", {}, [element("a", { href: run.link, textContent: "report of this run" })]));
  return element("div", { className: "panel" }, parts);
}

function showRuns() {
  const panels = [panel(runAt(values), values)];
  if (pinned) panels.push(panel(runAt(pinned), pinned));
  byId("compared").replaceChildren(...panels);
  byId("pin").textContent = pinned ? "Stop comparing" : "Compare with this";
  const told = values.map((at, axis) => textOf(axis, at)).join(", ");
  byId("count").textContent = runAt(values) ? `Shown: ${told}` : `No run with ${told}`;
}

function slider(axis, index) {
  const output = element("output", { textContent: axis.values[0] });
  const input = element("input", { type: "range", min: 0, max: axis.values.length - 1, step: 1, value: 0 });
  const turn = () => {
    values[index] = Number(input.value);
    output.textContent = axis.values[values[index]];
    input.setAttribute("aria-valuetext", axis.values[values[index]]);
    showRuns();
  };
  input.setAttribute("aria-valuetext", axis.values[0]);
  input.dataset.axis = axis.name;
  input.addEventListener("input", turn);
  return element("label", {}, [element("span", { textContent: axis.name }), input, output]);
}

byId("slides").replaceChildren(...data.axes.map(slider));
byId("pin").addEventListener("click", () => {
  pinned = pinned ? null : [...values];
  showRuns();
});
byId("save-png").addEventListener("click", () => {
  const run = runAt(values);
  if (!run) return;
  savePng("samples.png", samplesOf, Array.from({ length: run.count }, (_, k) => run.first + k));
});
samplesOf.ready.then(() => {
  showRuns();
  root.dataset.ready = "yes";
});

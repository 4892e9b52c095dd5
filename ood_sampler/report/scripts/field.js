// Physical fields: grey levels as colours, a colour bar in their unit, values under the pointer.

const field = data.field;
const unitOf = () => (field.unit ? ` ${field.unit}` : "");

/** The level of a pixel in a band; a single band is the mean of the three colours. */
function levelAt(pixels, at, band) {
  return field.bands.length > 1
    ? pixels[at + band]
    : Math.round((pixels[at] + pixels[at + 1] + pixels[at + 2]) / 3);
}

/** Draw an image on a canvas of its own size: as it is, or a band of it by the colours of values. */
function drawView(canvas, sheet, index, band) {
  canvas.width = sheet.edge;
  canvas.height = sheet.edge;
  canvas.classList.toggle("pixelated", sheet.edge <= SMALL);
  const context = canvas.getContext("2d");
  if (!field) {
    sheet.draw(context, index, 0, 0, sheet.edge);
    return;
  }
  const pixels = sheet.pixels(index);
  const painted = new ImageData(sheet.edge, sheet.edge);
  for (let at = 0; at < pixels.length; at += 4) {
    painted.data.set([...field.colours[levelAt(pixels, at, band)], 255], at);
  }
  context.putImageData(painted, 0, 0);
}

/** Tell the value under the pointer. */
function readout(canvas, source, output) {
  if (!field) return;
  canvas.addEventListener("pointermove", (event) => {
    const { sheet, index, band } = source();
    const box = canvas.getBoundingClientRect();
    const place = (at, from, size) =>
      Math.min(sheet.edge - 1, Math.max(0, Math.floor(((at - from) / size) * sheet.edge)));
    const [x, y] = [place(event.clientX, box.left, box.width), place(event.clientY, box.top, box.height)];
    const level = levelAt(sheet.pixels(index), 4 * (y * sheet.edge + x), band);
    const value = field.bands[band].values[level];
    output.textContent = `row ${y}, column ${x}: ${sheet.exact ? "" : "about "}`
      + `${written(value)}${unitOf()}`;
  });
  canvas.addEventListener("pointerleave", () => { output.textContent = ""; });
}

/** Draw the colour bar of a band, and offer the others. */
function colourBar(target, band, onBand) {
  if (!field) return;
  const bar = element("canvas", { width: 1, height: 256, role: "img",
    "aria-label": `Colour bar, ${field.scaling} scale${unitOf()}` });
  const context = bar.getContext("2d");
  field.colours.forEach((colours, level) => {
    context.fillStyle = `rgb(${colours.join(",")})`;
    context.fillRect(0, 255 - level, 1, 1);
  });
  const ticks = element("div", { className: "ticks" }, field.bands[band].ticks.map(([level, text]) => {
    const tick = element("span", { textContent: text });
    tick.style.bottom = `${(100 * level) / 255}%`;
    return tick;
  }));
  const about = element("div", { className: "note" },
    [`${field.unit ?? "value"} (${field.scaling} scale)`, element("br")]);
  if (field.bands.length > 1) {
    const select = element("select", { "aria-label": "Band" }, field.bands.map((_, k) =>
      element("option", { value: k, textContent: `band ${k + 1}` })));
    select.value = band;
    select.addEventListener("change", () => onBand(Number(select.value)));
    about.append(select);
  }
  const output = element("output", { id: "readout" });
  about.append(output);
  target.replaceChildren(bar, ticks, about);
}

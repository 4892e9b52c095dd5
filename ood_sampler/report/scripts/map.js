// The map of features: images of all sets in a plane, and a rectangle that selects some of them.

const KINDS = [
  ["in_domain", "in-domain samples", "#9141ac"],
  ["held_out", "held-out images", "#77808c"],
  ["few_shot", "few-shot images", "#c4650c"],
  ["samples", "samples", "#1a5fb4"],
].filter(([kind]) => sheets[kind] && data.points[kind]);

const map = {
  canvas: byId("map"),
  hidden: new Set(),
  shown: null, // part of the plane on the canvas
  brush: null, // selected part of the plane: left, top, right, bottom
  drag: null,
};

const MARGIN = 14;

function extent(kinds) {
  const points = kinds.flatMap((kind) => data.points[kind]);
  const ends = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const spare = 0.03 * (high - low) || 1;
    return [low - spare, high + spare];
  });
  return { left: ends[0][0], right: ends[0][1], top: ends[1][1], bottom: ends[1][0] };
}

const whole = extent(KINDS.map(([kind]) => kind));
map.shown = whole;

/** Sides of the canvas in CSS pixels; its own pixels follow the screen's. */
const side = () => map.canvas.clientWidth;

const toScreen = ([x, y]) => {
  const room = side() - 2 * MARGIN;
  const { left, right, top, bottom } = map.shown;
  return [MARGIN + (room * (x - left)) / (right - left), MARGIN + (room * (y - top)) / (bottom - top)];
};

const toPlane = ([x, y]) => {
  const room = side() - 2 * MARGIN;
  const { left, right, top, bottom } = map.shown;
  return [left + ((x - MARGIN) / room) * (right - left), top + ((y - MARGIN) / room) * (bottom - top)];
};

const visible = () => KINDS.filter(([kind]) => !map.hidden.has(kind));

function drawMap() {
  const size = side();
  if (!size) return;
  const scale = window.devicePixelRatio || 1;
  map.canvas.width = Math.round(size * scale);
  map.canvas.height = Math.round(size * scale);
  const context = map.canvas.getContext("2d");
  context.scale(scale, scale);
  context.imageSmoothingEnabled = true;
  const images = byId("map-images").checked;
  const zoom = (whole.right - whole.left) / (map.shown.right - map.shown.left);
  const edge = Math.min(48, (size / 26) * Math.sqrt(zoom));
  for (const [kind, , tone] of visible()) {
    context.strokeStyle = tone;
    context.fillStyle = tone;
    context.lineWidth = 1.5;
    data.points[kind].forEach((point, place) => {
      const [x, y] = toScreen(point);
      if (x < -edge || y < -edge || x > size + edge || y > size + edge) return;
      if (images) {
        sheets[kind].draw(context, place, x - edge / 2, y - edge / 2, edge);
        context.strokeRect(x - edge / 2, y - edge / 2, edge, edge);
      } else {
        context.globalAlpha = 0.7;
        context.beginPath();
        context.arc(x, y, 3.5, 0, 2 * Math.PI);
        context.fill();
        context.globalAlpha = 1;
      }
    });
  }
  if (map.brush) {
    const [left, top] = toScreen([map.brush.left, map.brush.top]);
    const [right, bottom] = toScreen([map.brush.right, map.brush.bottom]);
    // seen on any image
    context.lineWidth = 4;
    context.strokeStyle = colour("paper");
    context.strokeRect(left, top, right - left, bottom - top);
    context.lineWidth = 2;
    context.strokeStyle = colour("ink");
    context.setLineDash([6, 4]);
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

function select(brush) {
  map.brush = brush;
  byId("map-zoom").disabled = !brush;
  view.selected = brush && Object.fromEntries(KINDS.map(([kind]) => [kind,
    new Set(map.hidden.has(kind) ? [] : data.points[kind].flatMap(([x, y], place) =>
      x >= brush.left && x <= brush.right && y >= brush.bottom && y <= brush.top ? [place] : []))]));
  drawMap();
  showSheet();
}

function between(first, second) {
  return {
    left: Math.min(first[0], second[0]), right: Math.max(first[0], second[0]),
    bottom: Math.min(first[1], second[1]), top: Math.max(first[1], second[1]),
  };
}

function look(shown) {
  map.shown = shown;
  byId("map-all").disabled = shown === whole;
  drawMap();
}

const at = (event) => {
  const box = map.canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

/** The image drawn last under a place on the canvas. */
function under([x, y]) {
  let [found, least] = [null, 18 ** 2];
  for (const [kind, words] of visible()) {
    data.points[kind].forEach((point, place) => {
      const [u, v] = toScreen(point);
      const distance = (u - x) ** 2 + (v - y) ** 2;
      if (distance <= least) [found, least] = [{ kind, words, place, x: u, y: v }, distance];
    });
  }
  return found;
}

function tell(found) {
  const tip = byId("map-tip");
  tip.hidden = !found;
  if (!found) return;
  const { kind, place, words } = found;
  const image = sheets[kind].style(element("span", { className: "thumb" }), place);
  const names = { samples: () => nameOf(samples[place]), few_shot: () => data.few_shot[place] };
  tip.style.setProperty("--edge", "72px");
  tip.classList.toggle("pixelated", sheets[kind].edge <= SMALL);
  tip.replaceChildren(image, names[kind] ? names[kind]() : words);
  const middle = side() / 2;
  Object.assign(tip.style, {
    left: found.x < middle ? `${found.x + 16}px` : "auto",
    right: found.x < middle ? "auto" : `${side() - found.x + 16}px`,
    top: `${Math.min(found.y, side() - 110)}px`,
  });
}

map.canvas.addEventListener("pointerdown", (event) => {
  map.canvas.setPointerCapture(event.pointerId);
  map.drag = at(event);
  tell(null);
});
map.canvas.addEventListener("pointermove", (event) => {
  if (!map.drag) {
    tell(under(at(event)));
    return;
  }
  map.brush = between(toPlane(map.drag), toPlane(at(event)));
  drawMap();
});
map.canvas.addEventListener("pointerup", (event) => {
  if (!map.drag) return;
  const [start, end] = [map.drag, at(event)];
  map.drag = null;
  if (Math.hypot(end[0] - start[0], end[1] - start[1]) > 5) {
    select(between(toPlane(start), toPlane(end)));
    return;
  }
  const found = under(end);
  if (found && found.kind === "samples") view.onOpen(found.place);
  select(null);
});
map.canvas.addEventListener("pointerleave", () => tell(null));

/** Move the rectangle by a tenth of the map, or change its size; the first key makes one. */
map.canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const sizes = { "+": 1, "=": 1, "-": -1 };
  const [move, grow] = [moves[event.key], sizes[event.key]];
  if (event.key === "Escape" && map.brush) {
    event.preventDefault();
    select(null);
    return;
  }
  if (!move && !grow) return;
  event.preventDefault();
  const [width, height] = [map.shown.right - map.shown.left, map.shown.top - map.shown.bottom];
  const [x, y] = [(map.shown.left + map.shown.right) / 2, (map.shown.top + map.shown.bottom) / 2];
  const brush = map.brush ?? between([x - width / 8, y - height / 8], [x + width / 8, y + height / 8]);
  const [across, up] = map.brush && move ? [move[0] * width / 10, move[1] * height / 10] : [0, 0];
  const [wider, higher] = map.brush && grow ? [grow * width / 20, grow * height / 20] : [0, 0];
  const next = {
    left: brush.left + across - wider, right: brush.right + across + wider,
    bottom: brush.bottom + up - higher, top: brush.top + up + higher,
  };
  if (next.left < next.right && next.bottom < next.top) select(next);
});

byId("map-legend").replaceChildren(...[...KINDS].reverse().map(([kind, words, tone]) => {
  const box = element("input", { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    if (box.checked) map.hidden.delete(kind);
    else map.hidden.add(kind);
    if (map.brush) select(map.brush);
    else drawMap();
  });
  const key = element("span", { className: "key" });
  key.style.background = tone;
  return element("label", {}, [box, key, words]);
}));
byId("map-zoom").addEventListener("click", () => {
  const brush = map.brush;
  if (brush) look({ ...brush });
});
byId("map-all").addEventListener("click", () => look(whole));
byId("map-images").addEventListener("change", drawMap);
new ResizeObserver(drawMap).observe(map.canvas);
redraws.push(drawMap);

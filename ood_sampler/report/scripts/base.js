// What all pages share: the data, elements, sheets of thumbnails, files to save, light and dark.

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
root.classList.add("js");

const byId = (id) => document.getElementById(id);

/** Make an element with properties (`aria-` and `data-` ones as attributes) and children. */
function element(tag, properties = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Write a number with three significant digits; what is missing is a dash. */
function written(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

function bytesOf(source) {
  const text = atob(source.slice(source.indexOf(",") + 1));
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** A sheet of equal images: draws them on canvases, and cuts thumbnails from it. */
class Sheet {
  constructor(stored) {
    Object.assign(this, stored);
    this.address = URL.createObjectURL(new Blob([bytesOf(stored.source)], { type: "image/webp" }));
    this.image = new Image();
    this.image.src = this.address;
    this.ready = this.image.decode();
    this.rows = Math.ceil(this.count / this.columns);
  }

  at(index) {
    return [(index % this.columns) * this.edge, Math.floor(index / this.columns) * this.edge];
  }

  /** Show an image as the background of an element whose side is `--edge`, or that of a parent. */
  style(target, index) {
    const x = index % this.columns;
    const y = Math.floor(index / this.columns);
    target.style.backgroundImage = `url(${this.address})`;
    target.style.backgroundSize =
      `calc(var(--edge) * ${this.columns}) calc(var(--edge) * ${this.rows})`;
    target.style.backgroundPosition = `calc(var(--edge) * ${-x}) calc(var(--edge) * ${-y})`;
    return target;
  }

  draw(context, index, x, y, size) {
    context.drawImage(this.image, ...this.at(index), this.edge, this.edge, x, y, size, size);
  }

  /** Red, green, blue and opacity of each pixel of an image. */
  pixels(index) {
    const canvas = element("canvas", { width: this.edge, height: this.edge });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    this.draw(context, index, 0, 0, this.edge);
    return context.getImageData(0, 0, this.edge, this.edge).data;
  }
}

const SMALL = 64; // images up to this side are enlarged pixel by pixel

/** Hand a file to the browser's downloads. */
function save(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** Save images of a sheet as one PNG, as many side by side as make it about square. */
async function savePng(name, sheet, indices) {
  const columns = Math.max(1, Math.ceil(Math.sqrt(indices.length)));
  const pitch = sheet.edge + 2;
  const canvas = element("canvas", {
    width: Math.min(columns, indices.length) * pitch + 2,
    height: Math.ceil(indices.length / columns) * pitch + 2,
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  indices.forEach((index, k) => {
    const [x, y] = [2 + (k % columns) * pitch, 2 + Math.floor(k / columns) * pitch];
    sheet.draw(context, index, x, y, sheet.edge);
  });
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  save(name, blob, "image/png");
}

/** Write images of a sheet as a NumPy array of bytes, shape (N, height, width, 3), format 1.0. */
function npy(sheet, indices) {
  const shape = `(${indices.length}, ${sheet.edge}, ${sheet.edge}, 3)`;
  let header = `{'descr': '|u1', 'fortran_order': False, 'shape': ${shape}, }`;
  header += " ".repeat(63 - ((10 + header.length) % 64)) + "\n";
  const size = sheet.edge ** 2;
  const start = 10 + header.length;
  const bytes = new Uint8Array(start + indices.length * size * 3);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), 10);
  indices.forEach((index, k) => {
    const pixels = sheet.pixels(index);
    for (let i = 0; i < size; i += 1) {
      bytes.set(pixels.subarray(4 * i, 4 * i + 3), start + (k * size + i) * 3);
    }
  });
  return bytes;
}

/** Move the focus among elements laid out in lines; only the current one can be tabbed to. */
function arrows(container, event) {
  const items = [...container.children];
  const here = items.indexOf(document.activeElement);
  if (here < 0) return;
  const top = items[0].offsetTop;
  const line = Math.max(1, items.findIndex((item) => item.offsetTop > top));
  const across = items.at(-1).offsetTop > top ? line : items.length;
  const moves = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across,
    Home: -here, End: items.length - 1 - here,
  };
  const move = moves[event.key];
  if (move === undefined) return;
  event.preventDefault();
  const next = items[Math.min(items.length - 1, Math.max(0, here + move))];
  items[here].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

const isDark = () =>
  root.dataset.theme
    ? root.dataset.theme === "dark"
    : window.matchMedia("(prefers-color-scheme: dark)").matches;

/** The value of a colour of the page, light or dark. */
const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

const redraws = [];
byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  redraws.forEach((redraw) => redraw());
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  redraws.forEach((redraw) => redraw()));

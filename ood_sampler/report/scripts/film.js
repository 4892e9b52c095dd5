// Films: a few-shot image on its way to noise, a latent on its way to a sample.

const film = data.film;

function startFilm() {
  const reels = film.reels.map((reel) => new Sheet(reel));
  const [ups, downs] = [film.up.length, film.down.length];
  const slider = byId("film-frame");
  slider.max = ups + downs - 1;
  byId("film-choice").replaceChildren(...film.numbers.map((number, k) =>
    element("option", { value: k, textContent: `${film.few_shot[k]} up, sample ${number} down` })));
  let timer = null;

  const level = (steps, k) => (steps[k] < 0 ? "the image" : `step ${steps[k]}`);

  function put(id, reel, frame, words) {
    const canvas = byId(id);
    canvas.width = reel.edge;
    canvas.height = reel.edge;
    canvas.classList.toggle("pixelated", reel.edge <= SMALL);
    reel.draw(canvas.getContext("2d"), frame, 0, 0, reel.edge);
    canvas.setAttribute("aria-label", words);
  }

  function show() {
    const k = Number(byId("film-choice").value);
    const frame = Number(slider.value);
    const [up, down] = [Math.min(frame, ups - 1), Math.max(0, frame - ups)];
    const reel = reels[k];
    put("film-up", reel, up, `few-shot image ${film.few_shot[k]} at ${level(film.up, up)}`);
    put("film-down", reel, ups + down, `sample ${film.numbers[k]} at ${level(film.down, down)}`);
    put("film-guess", reel, ups + downs + down,
      `sample ${film.numbers[k]} as the model would finish it at ${level(film.down, down)}`);
    const told = frame < ups
      ? `up: ${level(film.up, up)}` : `down: ${level(film.down, down)}`;
    byId("film-step").textContent = told;
    slider.setAttribute("aria-valuetext", told);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    byId("film-play").textContent = "Play";
  }

  function play() {
    if (timer) {
      stop();
      return;
    }
    if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
    byId("film-play").textContent = "Pause";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) >= Number(slider.max)) stop();
    }, 180);
  }

  slider.addEventListener("input", () => { stop(); show(); });
  byId("film-choice").addEventListener("change", show);
  byId("film-play").addEventListener("click", play);
  Promise.all(reels.map((reel) => reel.ready)).then(() => {
    slider.value = slider.max;
    show();
  });
}

if (film) startFilm();

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("values").textContent);
  const by = (id) => document.getElementById(id);
  const list = by("cards"), controls = by("controls"), count = by("count");
  const fields = { metric: by("metric"), order: by("order"), collection: by("collection"), search: by("search"), failures: by("failures") };
  const cards = data.cards.map((card, place) => {
    const element = by(`card-${place}`);
    const figures = [...element.querySelectorAll(".picture")].slice(1).map((one) => one.querySelector(".score"));
    return { ...card, element, figures, text: element.querySelector("figcaption").textContent.toLowerCase() };
  });

  const short = (value) => (value === null ? "n/a" : value.toFixed(2).replace(/^(-?)0\./, "$1."));

  function judged(card, metric) {
    const known = card.values[metric].filter((value) => value !== null);
    const { cutoff, counts_style } = data.metrics[metric];
    if (card.is_style && !counts_style) return { spread: 0, fails: false };
    const parted = cutoff !== null && new Set(known.map((value) => value > cutoff)).size > 1;
    return {
      spread: known.length > 1 ? Math.max(...known) - Math.min(...known) : 0,
      fails: parted || (known.length > 0 && known.length < data.models.length),
    };
  }

  function key(card, metric, order, found) {
    if (order === "asked") return [card.at];
    if (order === "apart") return [found.fails ? 0 : 1, -found.spread, card.at];
    const value = card.values[metric][Number(order.split("-")[1])];
    return [value === null ? -Infinity : value * (data.metrics[metric].sign || 1), card.at];
  }

  function show() {
    const metric = Number(fields.metric.value), order = fields.order.value;
    const words = fields.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const collection = fields.collection ? fields.collection.value : "";
    const rows = cards.map((card) => {
      const found = judged(card, metric);
      return { card, found, key: key(card, metric, order, found) };
    });
    rows.sort((one, other) => {
      const place = one.key.findIndex((value, index) => value !== other.key[index]);
      return place < 0 ? 0 : one.key[place] < other.key[place] ? -1 : 1;
    });
    let shown = 0;
    for (const { card, found } of rows) {
      const fits = (!collection || card.element.dataset.collection === collection)
        && (!fields.failures.checked || found.fails) && words.every((word) => card.text.includes(word));
      card.element.hidden = !fits;
      card.element.classList.toggle("failure", found.fails);
      card.figures.forEach((figure, place) => {
        figure.textContent = `${data.metrics[metric].label} ${short(card.values[metric][place])}`;
      });
      shown += fits ? 1 : 0;
    }
    list.replaceChildren(...rows.map(({ card }) => card.element));
    count.textContent = shown === cards.length ? `${shown} shown.` : `${shown} of ${cards.length} shown.`;
  }

  function step(direction) {
    const visible = [...list.children].filter((one) => !one.hidden);
    const here = visible.indexOf(document.activeElement.closest?.(".card"));
    const next = visible[here < 0 ? (direction > 0 ? 0 : visible.length - 1) : here + direction];
    if (next) { next.focus({ preventScroll: true }); next.scrollIntoView({ block: "nearest" }); }
  }

  const keys = {
    "/": () => fields.search.focus(), o: () => fields.order.focus(), m: () => fields.metric.focus(),
    f: () => fields.failures.click(), j: () => step(1), k: () => step(-1),
    Enter: () => document.activeElement.matches(".card") && document.activeElement.querySelector("a").click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input[type=search], select, textarea")) {
      if (event.key === "Escape") { event.target.value = event.target.type === "search" ? "" : event.target.value; event.target.blur(); show(); }
      return;
    }
    if (event.key === "Enter" && !event.target.matches(".card")) return;
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  controls.addEventListener("input", show);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  show();
})();

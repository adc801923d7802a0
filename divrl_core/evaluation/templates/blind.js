"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const pages = ["judging", "finished", "result"].map(by);
  const buttons = [...document.querySelectorAll("[data-answer]")];
  const answerKeys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", ArrowUp: "bad", t: "tie", b: "bad" };
  const fetched = new Map();
  let state = null, seenAt = 0, isBusy = true;

  async function ask(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("The server does not answer. Start it again; what was answered is saved.");
    }
    const found = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
    return found;
  }

  const source = (number, side) => `/pictures/${state.token}/${number}/${side}`;

  function load(number, side) {
    const key = source(number, side);
    if (!fetched.has(key)) {
      const picture = new Image();
      picture.src = key;
      fetched.set(key, picture.decode().then(() => key, () => { fetched.delete(key); throw new Error("A picture cannot be shown; reload the page."); }));
    }
    return fetched.get(key);
  }

  function busy(value) {
    isBusy = value;
    by("judging").setAttribute("aria-busy", String(value));
    buttons.forEach((button) => { button.disabled = value; });
    by("undo").disabled = value || !state?.can_undo;
    by("end").disabled = value || !state?.done;
  }

  function open(name) {
    pages.forEach((page) => { page.hidden = page.id !== name; });
  }

  async function show(found) {
    state = found;
    if (state.ended) return showResult();
    by("progress").textContent = `${state.done} of ${state.total} judged`;
    by("bar").max = state.total;
    by("bar").value = state.done;
    if (!state.pair) return open("finished");
    open("judging");
    const { number, prompt } = state.pair;
    const sides = ["reference", "left", "right"];
    const sources = await Promise.all(sides.map((side) => load(number, side)));
    sides.forEach((side, place) => { by(side).src = sources[place]; });
    by("prompt").textContent = prompt;
    buttons.forEach((button) => button.classList.remove("chosen"));
    document.activeElement?.blur?.();
    seenAt = performance.now();
    busy(false);
    for (const ahead of state.ahead) for (const side of sides) load(ahead, side).catch(() => {});
  }

  async function act(work) {
    if (isBusy && state?.pair) return;
    busy(true);
    by("problem").textContent = "";
    try {
      await show(await work());
    } catch (error) {
      by("problem").textContent = error.message;
      if (error.status === 409) await ask("/state").then(show).catch(() => {});
      else busy(false);
    }
  }

  function answer(verdict) {
    if (isBusy || !state?.pair) return;
    buttons.find((button) => button.dataset.answer === verdict).classList.add("chosen");
    const seconds = (performance.now() - seenAt) / 1000;
    act(() => ask("/answers", { pair: state.pair.number, answer: verdict, seconds }));
  }

  const undo = () => { if (state?.can_undo && (!state.pair || !isBusy)) act(() => ask("/undo", {})); };
  const end = () => act(() => ask("/end", {}));

  const percent = (value) => (value === null ? "n/a" : `${Math.round(100 * value)}%`);

  function share([value, low, high]) {
    const cell = document.createElement("td");
    const isSure = low !== null && (low > 0.5 || high < 0.5);
    cell.append(Object.assign(document.createElement("span"), { textContent: percent(value), className: isSure ? "sure" : "" }));
    if (low !== null) cell.append(" ", Object.assign(document.createElement("span"), { textContent: `[${percent(low)}, ${percent(high)}]`, className: "interval" }));
    return cell;
  }

  function table(caption, header, rows) {
    const box = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
    const found = document.createElement("table");
    found.createCaption().textContent = caption;
    const head = found.createTHead().insertRow();
    header.forEach((text) => head.append(Object.assign(document.createElement("th"), { textContent: text, scope: "col" })));
    const body = found.createTBody();
    for (const [name, ...cells] of rows) {
      const row = body.insertRow();
      row.append(Object.assign(document.createElement("th"), { textContent: name, scope: "row" }));
      cells.forEach((cell) => (cell instanceof Node ? row.append(cell) : (row.insertCell().textContent = cell)));
    }
    box.append(found);
    by("tables").append(box);
  }

  function showResult() {
    open("result");
    by("tables").replaceChildren();
    const { result } = state;
    by("told").textContent = result
      ? "Shares are of the pairs with a winner, with 95% intervals over references; bold ones leave out one half. You may close this page."
      : "Nothing was judged.";
    if (!result) return;
    table("Which model you preferred", ["Pair", "Share for the first", "First", "Second", "Tie", "Both bad"],
      result.preferences.map((one) => [`${one.first} against ${one.second}`, share(one.share), ...one.counts]));
    if (result.metrics.length) {
      table("Which metric prefers what you prefer", ["Metric", "Agreement", "Pairs"],
        result.metrics.map((one) => [one.label, share(one.share), one.n]));
    }
  }

  buttons.forEach((button) => button.addEventListener("click", () => answer(button.dataset.answer)));
  by("undo").addEventListener("click", undo);
  by("undo-last").addEventListener("click", undo);
  by("reveal").addEventListener("click", end);
  by("end").addEventListener("click", () => by("sure").showModal());
  by("sure").addEventListener("close", () => { if (by("sure").returnValue === "end") end(); by("sure").returnValue = ""; });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || by("sure").open) return;
    const verdict = answerKeys[event.key];
    if (verdict) { event.preventDefault(); answer(verdict); }
    else if (event.key === "u" || event.key === "U" || event.key === "Backspace") { event.preventDefault(); undo(); }
  });
  ask("/state").then(show).catch((error) => { by("problem").textContent = error.message; });
})();

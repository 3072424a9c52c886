/* Runs the decoders of the book's explorers in the page. A figure with the class `explorer` shows a still picture; where JavaScript
 * and WebAssembly are on, it becomes a canvas with sliders when it is scrolled into view. What the sliders do stands in a JSON
 * file that tools/explorers.py writes, as does how a picture is painted. Nothing is asked for from elsewhere. */
"use strict";
(() => {
  const folder = new URL("../explorers/", document.currentScript.src);
  let runtime;

  function loadRuntime() {
    runtime ??= import(new URL("ort.js", folder)).then((ort) => {
      ort.env.wasm.numThreads = 1; // more would need headers that a plain server does not send
      ort.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", folder).href };
      return ort;
    });
    return runtime;
  }

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255);
  const clamp = (value) => Math.min(Math.max(value, 0), 1);

  /* Paints values in [0, 1]: ink on white if the picture is grey, a colour to each pixel if there are any. */
  function paint(canvas, values, shape, colours) {
    const [height, width] = shape.slice(-2);
    const picture = new ImageData(width, height);
    const size = height * width;
    for (let i = 0; i < size; i++) {
      for (let channel = 0; channel < 3; channel++) {
        const full = colours ? colours[i][channel] : 0;
        const light = shape.length === 3 ? clamp(values[channel * size + i]) : 1 - clamp(values[i]) * (1 - full);
        picture.data[4 * i + channel] = Math.round(255 * light);
      }
      picture.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  /* Paints one small image at each point of a square, as the mixture of their pixels' colours. */
  function paintPlane(canvas, values, points, colours) {
    const picture = new ImageData(points, points);
    const pixels = colours.length;
    for (let i = 0; i < points * points; i++) {
      const ink = Array.from(values.subarray(i * pixels, (i + 1) * pixels), clamp);
      const total = Math.max(1, ink.reduce((sum, each) => sum + each, 0));
      for (let channel = 0; channel < 3; channel++) {
        const dark = ink.reduce((sum, each, k) => sum + (each / total) * (1 - colours[k][channel]), 0);
        picture.data[4 * i + channel] = Math.round(255 * (1 - dark));
      }
      picture.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function planeCodes(points, reach) {
    const codes = new Float32Array(2 * points * points);
    const at = (i) => -reach + (2 * reach * i) / (points - 1);
    for (let row = 0; row < points; row++) {
      for (let column = 0; column < points; column++) {
        codes.set([at(column), at(points - 1 - row)], 2 * (row * points + column));
      }
    }
    return codes;
  }

  async function start(figure) {
    const get = async (name) => {
      const response = await fetch(new URL(name, folder));
      if (!response.ok) throw new Error(`${name}: ${response.status}`);
      return response;
    };
    const name = figure.id.replace("explorer-", "");
    const [ort, content] = await Promise.all([loadRuntime(), get(`${name}.json`).then((answer) => answer.json())]);
    const model = await (await get(content.model)).arrayBuffer();
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    const latentDim = content.codes[0].length;
    const decode = async (codes) => {
      const z = new ort.Tensor("float32", codes, [codes.length / latentDim, latentDim]);
      return (await session.run({ z })).pixels.data;
    };

    const { shape, sliders, images, plane } = content;
    const [height, width] = shape.slice(-2);
    const colours = plane?.colours.map(rgb);
    const style = width <= 32 ? "pixelated" : "auto";
    const canvasOf = (columns, rows, label, kind) => {
      const canvas = element("canvas", { width: columns, height: rows, role: "img", "aria-label": label, class: kind });
      if (kind !== "plane") canvas.style.imageRendering = style;
      return canvas;
    };
    const main = canvasOf(width, height, content.alt, "decoded");
    const stage = element("div", { class: "stage" });
    const panels = element("div", { class: "sliders" });
    const inputs = sliders.map((slider, k) => {
      const id = `${figure.id}-${k}`;
      const { min, max, step, value } = slider;
      const input = element("input", { type: "range", id, min, max, step, value });
      const output = element("output", { for: id });
      panels.append(element("label", { for: id }, slider.label), input, output);
      return { slider, input, output };
    });
    const of = (role) => inputs.find(({ slider }) => slider.role === role);
    const moved = inputs.filter(({ slider }) => slider.role === "direction");

    const originals = (images ? ["first", "second"] : []).filter(of).map((role) => {
      const canvas = canvasOf(width, height, of(role).slider.label, "original");
      return { role, canvas };
    });
    stage.append(...originals.slice(0, 1).map(({ canvas }) => canvas), main, ...originals.slice(1).map(({ canvas }) => canvas));
    const show = () => {
      const code = new Float32Array(latentDim);
      const first = content.codes[of("first")?.input.value ?? 0];
      const second = content.codes[of("second")?.input.value ?? 0];
      const position = Number(of("position")?.input.value ?? 0);
      for (let i = 0; i < latentDim; i++) {
        code[i] = (1 - position) * first[i] + position * second[i];
        for (const { slider, input } of moved) code[i] += input.value * slider.direction[i];
      }
      for (const { slider, input, output } of inputs) {
        const digits = Number.isInteger(slider.step) ? 0 : slider.step < 0.1 ? 2 : 1;
        output.textContent = Number(input.value).toFixed(digits).replace("-", "−");
      }
      for (const { role, canvas } of originals) {
        paint(canvas, images[of(role).input.value].map((value) => value / 255), shape);
      }
      return code;
    };

    // One run at a time; what moved meanwhile is shown by the next.
    let running = false;
    let stale = false;
    const draw = async () => {
      stale = true;
      figure.setAttribute("aria-busy", "true");
      if (running) return;
      running = true;
      while (stale) {
        stale = false;
        paint(main, await decode(show()), shape, colours);
      }
      running = false;
      figure.setAttribute("aria-busy", "false");
    };

    if (plane) {
      const canvas = canvasOf(plane.points, plane.points, `z₁ to the right, z₂ upwards, from −${plane.reach} to ${plane.reach}`, "plane");
      const dot = element("span", { class: "dot", "aria-hidden": "true" });
      const pad = element("div", { class: "pad" }, canvas, dot);
      stage.prepend(pad);
      const [z1, z2] = moved.map(({ input }) => input);
      const place = () => {
        dot.style.left = `${50 + (50 * z1.value) / plane.reach}%`;
        dot.style.top = `${50 - (50 * z2.value) / plane.reach}%`;
      };
      const drag = (event) => {
        if (event.type === "pointermove" && !pad.hasPointerCapture(event.pointerId)) return;
        if (event.type === "pointerdown") pad.setPointerCapture(event.pointerId);
        const box = canvas.getBoundingClientRect();
        z1.value = plane.reach * ((2 * (event.clientX - box.left)) / box.width - 1);
        z2.value = plane.reach * (1 - (2 * (event.clientY - box.top)) / box.height);
        panels.dispatchEvent(new Event("input"));
      };
      pad.addEventListener("pointerdown", drag);
      pad.addEventListener("pointermove", drag);
      panels.addEventListener("input", place);
      place();
      paintPlane(canvas, await decode(planeCodes(plane.points, plane.reach)), plane.points, colours);
    }

    const reset = element("button", { type: "button" }, "Reset");
    reset.addEventListener("click", () => {
      for (const { slider, input } of inputs) input.value = slider.value;
      panels.dispatchEvent(new Event("input"));
    });
    panels.append(reset);
    panels.addEventListener("input", draw);
    await draw();
    figure.querySelector("img").replaceWith(stage, panels);
    figure.classList.add("live");
  }

  const say = (figure, text) => figure.querySelector("figcaption").append(element("p", { role: "status" }, text));

  const figures = document.querySelectorAll("figure.explorer");
  if (location.protocol === "file:") {
    for (const figure of figures) say(figure, "Sliders appear when the page comes from a server, such as python -m http.server.");
  } else if (typeof WebAssembly === "object") {
    const seen = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          seen.unobserve(target);
          start(target).catch((error) => say(target, `The sliders could not be loaded (${error.message}).`));
        }
      },
      { rootMargin: "200px" },
    );
    figures.forEach((figure) => seen.observe(figure));
  }
})();

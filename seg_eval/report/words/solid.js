"use strict";
// Two linked views of a case: unpacks its volumes and hands them to NiiVue.
(async () => {
  const SIGHTS = { slices: [3, 0], both: [3, 1], solid: [4, 1] };
  const UINT8 = 2;
  const LEFT_OUT = 0.1;
  const all = (root, selector) => Array.from(root.querySelectorAll(selector));
  const told = document.querySelector(".told");
  const page = JSON.parse(document.getElementById("volumes").textContent);
  const count = page.shape[0] * page.shape[1] * page.shape[2];

  function tell(text) {
    told.textContent = text;
    told.hidden = text === "";
  }

  function why() {
    if (typeof DecompressionStream === "undefined") return "This browser is too old to unpack the volumes; the report shows the same case in slices.";
    if (!document.createElement("canvas").getContext("webgl2")) return "This browser has no WebGL 2, which 3-D needs; the report shows the same case in slices.";
    return "";
  }

  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    if (bytes.length !== count) throw new Error(`a volume has ${bytes.length} voxels instead of ${count}`);
    return bytes;
  }

  const kept = new Map();
  function voxels(kind, index) {
    const key = `${kind} ${index}`;
    if (!kept.has(key)) {
      const entry = page[`${kind}s`][index];
      kept.set(key, entry.voxels === undefined ? difference(entry.error_of) : unpack(entry.voxels));
    }
    return kept.get(key);
  }

  async function difference(index) {
    const [real, made] = await Promise.all([voxels("image", 0), voxels("image", index)]);
    return real.map((value, i) => Math.min(255, Math.abs(value - made[i]) * page.error_gain));
  }

  async function volume(kind, index, colours, opacity, low) {
    const bytes = await voxels(kind, index);
    const file = niivue.NVImage.createNiftiArray(page.shape, page.spacing, page.affine, UINT8, bytes);
    const name = `${kind}-${index}.nii`;
    return niivue.NVImage.new(file.buffer, name, colours, opacity, null, low, 255);
  }

  function channels(colour) {
    return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  }

  // As the report draws an error: no error, half of the largest, largest.
  function mapColours() {
    const [R, G, B] = [0, 1, 2].map((i) => page.error_colours.map((colour) => channels(colour)[i]));
    return { R, G, B, A: [0, 180, 255], I: [0, 128, 255] };
  }

  function regionColours() {
    const colours = ["#000000", ...page.colours].map(channels);
    const [R, G, B] = [0, 1, 2].map((i) => colours.map((colour) => colour[i]));
    return { R, G, B, A: colours.map((_, i) => (i ? 255 : 0)), I: colours.map((_, i) => i), labels: ["", ...page.regions] };
  }

  const share = (name) => Number(document.querySelector(`.${name}-share`).value) / 100;

  async function openView(section) {
    const view = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidthUnit: "percent", crosshairWidth: 0.25,
      crosshairGap: 3, show3Dcrosshair: true,
      isRadiologicalConvention: true, isOrientationTextVisible: page.known, isColorbar: false,
      dragAndDropEnabled: false, loadingText: "", multiplanarLayout: 2, multiplanarShowRender: 1,
      logLevel: "warn", fontMinPx: 11,
    });
    await view.attachToCanvas(section.querySelector("canvas"));
    view.addColormap("error", mapColours());
    view.setSliceType(3);
    return view;
  }

  async function show(view, section) {
    const picked = (name) => Number(section.querySelector(`[data-pick=${name}]`).value);
    const wanted = [await volume("image", picked("image"), "gray", 1, 0)];
    if (picked("layer") >= 0) wanted.push(await volume("layer", picked("layer"), "error", share("layer"), 255 * LEFT_OUT));
    if (picked("mask") >= 0) {
      const mask = await volume("mask", picked("mask"), "gray", share("mask"), 0);
      mask.setColormapLabel(regionColours());
      wanted.push(mask);
    }
    const at = view.volumes.length ? Array.from(view.scene.crosshairPos) : null;
    while (view.volumes.length) view.removeVolume(view.volumes[0]);
    wanted.forEach((each) => view.addVolume(each));
    view.scene.crosshairPos = at || view.mm2frac(page.start_mm);
    view.updateGLVolume();
  }

  const fault = why();
  if (fault) return tell(fault);
  const sections = all(document, ".pane");
  const views = [];
  let turn = Promise.resolve();
  // One change after the other, so that the last one picked is what is seen.
  function queue(section, view) {
    turn = turn.then(() => show(view, section)).then(() => tell(""), (error) => tell(`The volumes cannot be shown: ${error.message}`));
    return turn;
  }
  try {
    for (const section of sections) views.push(await openView(section));
  } catch (error) {
    return tell(`The volumes cannot be shown: ${error.message}`);
  }
  sections.forEach((section, i) => {
    all(section, "select").forEach((select) => select.addEventListener("change", () => queue(section, views[i])));
    queue(section, views[i]);
  });
  await turn;
  views.forEach((view, i) => view.broadcastTo(views.filter((_, j) => j !== i), { "2d": true, "3d": true }));
  all(document, "[name=sight]").forEach((input) => input.addEventListener("change", () => {
    const [slices, solid] = SIGHTS[input.value];
    views.forEach((view) => {
      view.opts.multiplanarShowRender = solid;
      view.setSliceType(slices);
    });
  }));
  all(document, "input[type=range]").forEach((input) => input.addEventListener("input", () => views.forEach((view) => {
    view.volumes.forEach((each, i) => {
      if (i) view.setOpacity(i, share(each.name.split("-")[0]));
    });
  })));
  all(document, ".js").forEach((element) => { element.hidden = false; });
  document.documentElement.classList.add("live");
})();

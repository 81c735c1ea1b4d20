"use strict";
(() => {
  const CROSS = {
    axial: ["sagittal", "coronal"],
    coronal: ["sagittal", "axial"],
    sagittal: ["coronal", "axial"],
  };
  const all = (root, selector) => Array.from(root.querySelectorAll(selector));
  document.documentElement.classList.add("live");
  all(document, ".js").forEach((element) => { element.hidden = false; });

  function nearest(list, value) {
    let best = 0;
    list.forEach((each, i) => {
      if (Math.abs(each - value) < Math.abs(list[best] - value)) best = i;
    });
    return best;
  }

  function startViewer(viewer) {
    const data = JSON.parse(viewer.querySelector("script[type='application/json']").textContent);
    const at = {};
    const planes = {};
    all(viewer, ".plane").forEach((element) => {
      planes[element.dataset.plane] = element;
      at[element.dataset.plane] = data.planes[element.dataset.plane].start;
    });
    const checked = viewer.querySelector("input[type=radio]:checked");
    let region = checked ? checked.value : null;

    function drawCross(name) {
      const [across, down] = CROSS[name];
      const { size } = data.planes[name];
      const x = 2 * data.planes[across].indices[at[across]] + 1;
      const y = 2 * data.planes[down].indices[at[down]] + 1;
      all(planes[name], ".cross").forEach((line) => {
        line.setAttribute("d", `M${x} 0V${2 * size[1]}M0 ${y}H${2 * size[0]}`);
      });
    }

    function drawOutlines(name) {
      const owners = region === null ? null : data.planes[name].outlines[region];
      if (!owners) return;
      all(planes[name], ".panel").forEach((panel) => {
        const found = panel.querySelector(".found");
        if (!found) return;
        const paths = owners[found.dataset.owner];
        const path = paths ? paths[at[name]] : "";
        found.setAttribute("d", path);
        panel.querySelector(".halo").setAttribute("d", path);
        panel.querySelector(".expert").setAttribute("d", owners.expert[at[name]]);
      });
    }

    function move(name, slice) {
      const { columns, rows, labels } = data.planes[name];
      at[name] = slice;
      const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0);
      const style = planes[name].style;
      style.setProperty("--px", `${share(slice % columns, columns)}%`);
      style.setProperty("--py", `${share(Math.floor(slice / columns), rows)}%`);
      planes[name].querySelector(".where").textContent = labels[slice];
      const slider = planes[name].querySelector("input[type=range]");
      slider.value = String(slice);
      slider.setAttribute("aria-valuetext", labels[slice]);
      drawOutlines(name);
      Object.keys(CROSS).filter((other) => other !== name).forEach(drawCross);
    }

    Object.entries(planes).forEach(([name, element]) => {
      const slider = element.querySelector("input[type=range]");
      slider.addEventListener("input", () => move(name, Number(slider.value)));
      all(element, ".picture").forEach((picture) => {
        picture.addEventListener("click", (event) => {
          const box = picture.getBoundingClientRect();
          const { size } = data.planes[name];
          const [across, down] = CROSS[name];
          const x = Math.floor(((event.clientX - box.left) / box.width) * size[0]);
          const y = Math.floor(((event.clientY - box.top) / box.height) * size[1]);
          move(across, nearest(data.planes[across].indices, x));
          move(down, nearest(data.planes[down].indices, y));
        });
      });
      move(name, Number(slider.value));
    });
    all(viewer, "input[type=radio]").forEach((radio) => {
      radio.addEventListener("change", () => {
        region = radio.value;
        viewer.dataset.region = region;
        viewer.querySelector(".static").textContent = `Outlined: ${region}.`;
        Object.keys(planes).forEach(drawOutlines);
      });
    });
    const react = (selector, name, wanted) => {
      const box = viewer.querySelector(selector);
      if (!box) return;
      const show = () => viewer.classList.toggle(name, box.checked === wanted);
      box.addEventListener("change", show);
      show();
    };
    react(".cross-switch", "no-cross", false);
    react(".large-switch", "large", true);
  }

  function startCharts() {
    const dots = all(document, ".case");
    const picked = document.querySelector(".picked");
    const choose = (name) => {
      dots.forEach((dot) => dot.classList.toggle("hot", dot.dataset.case === name));
      if (picked && name !== null) picked.textContent = `Case ${name}`;
    };
    dots.forEach((dot) => {
      dot.addEventListener("pointerenter", () => choose(dot.dataset.case));
      dot.addEventListener("click", () => choose(dot.dataset.case));
      dot.addEventListener("pointerleave", () => choose(null));
    });
  }

  function startCopying() {
    all(document, ".copy").forEach((button) => {
      button.addEventListener("click", async () => {
        const source = document.getElementById(button.dataset.of);
        const range = document.createRange();
        range.selectNodeContents(source);
        const selection = window.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        try {
          await navigator.clipboard.writeText(source.textContent);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Selected: press Ctrl+C";
        }
      });
    });
  }

  all(document, ".viewer").forEach(startViewer);
  startCharts();
  startCopying();
})();

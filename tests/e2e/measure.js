// Added to a copy of the report by tests/e2e/test_report_browser.py: tells the page around it what a reader would see.
addEventListener("load", () => {
  const seen = (element) => element.getClientRects().length > 0;
  const drawings = [...document.querySelectorAll("figure svg")].filter(seen);
  const overlaps = [];
  const outside = [];
  for (const svg of drawings) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([words, box], place) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1) outside.push(words);
      for (const [others, other] of boxes.slice(place + 1)) {
        const wide = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const high = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (wide > 1 && high > 4) overlaps.push(`${words} / ${others}`);
      }
    });
  }
  // A box that scrolls hides what does not fit: nothing says so on paper or a phone.
  const clipped = [...document.querySelectorAll(".box")]
    .filter((box) => seen(box) && box.scrollWidth > box.clientWidth + 1)
    .map((box) => box.getAttribute("aria-label"));
  const size = (element) => {
    const svg = element.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return parseFloat(getComputedStyle(element).fontSize) * scale;
  };
  const texts = [...document.querySelectorAll("p, li, dt, dd, td, th, h1, h2, figure text")].filter(seen);
  const root = document.documentElement;
  const found = {
    width: root.clientWidth,
    content: root.scrollWidth,
    drawings: drawings.map((svg) => Math.round(svg.getBoundingClientRect().width)),
    marks: drawings.map((svg) => svg.querySelectorAll("path, circle, rect").length),
    smallest: Math.min(...texts.map(size)),
    overlaps,
    outside,
    clipped,
  };
  parent.postMessage(JSON.stringify(found), "*");
});

// What a person would see: texts that lie on each other, texts outside the page, contrast, and the numbers shown.
(() => {
  const boxes = [];
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || parent.closest('title, desc, script, caption, details:not([open]) > :not(summary)')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      // A line of text is a little taller than its letters.
      const air = box.height * 0.2;
      if (box.width > 1) boxes.push({ text: node.textContent.trim().slice(0, 40), node, left: box.left, right: box.right, top: box.top + air, bottom: box.bottom - air });
    }
  }
  const overlaps = [];
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
    if (a.node === b.node) return;
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left), high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 1) overlaps.push(`${a.text} / ${b.text}`);
  }));
  const outside = boxes.filter((b) => !b.node.parentElement.closest('.scroll') && (b.left < 0 || b.right > innerWidth + 0.5)).map((b) => b.text);
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (color) => {
    const [r, g, b] = color.match(/[\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const ratios = boxes.map(({ node }) => {
    const element = node.parentElement, style = getComputedStyle(element);
    const [a, b] = [light(element instanceof SVGElement ? style.fill : style.color), light(ground(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
  const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
  const table = (id) => [...document.querySelectorAll(`#${id} tbody tr`)].map((row) => [...row.cells].map((c) => c.textContent.replaceAll(',', '')).join('|'));
  const seen = {
    overlaps: overlaps.slice(0, 20), outside, contrast: Math.min(...ratios), title: document.title,
    charts: [...document.querySelectorAll('figure svg')].filter((s) => s.getBoundingClientRect().height > 100).length,
    dark: light(getComputedStyle(document.body).backgroundColor) < 0.2,
    cards: { base: texts('.card .base dd'), fineTuned: texts('.card .new dd') },
    sentences: texts('#results tbody td:nth-child(2)'),
    tables: { reviewers: table('reviewers'), effect: table('effect') },
  };
  const answer = document.createElement('pre');
  answer.id = 'inspected';
  answer.textContent = JSON.stringify(seen);
  document.body.append(answer);
})();

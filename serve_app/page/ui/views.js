// The views of the Studio: one at a time, chosen by the part of the address after the `#`, such as `#speak` or `#speak?model=sopro`.

const HOME = 'speak';
const ANCHORS = ['main'];

const links = [...document.querySelectorAll('.views a')];

/**
 * Shows the view that the address names, now and whenever it changes.
 * @param {(view: {name: string, parameters: URLSearchParams}) => void} onShow is called with each view that is shown
 */
export function startViews(onShow) {
  show(onShow, { focus: false });
  window.addEventListener('hashchange', () => show(onShow, { focus: true }));
}

/** Opens a view, as its link does. */
export function openView(name) {
  location.hash = name;
}

function show(onShow, { focus }) {
  const [wanted, query] = location.hash.slice(1).split('?', 2);
  if (ANCHORS.includes(wanted)) return;
  const name = links.some((link) => link.hash === `#${wanted}`) ? wanted : HOME;
  for (const link of links) {
    const current = link.hash === `#${name}`;
    if (current) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
    document.getElementById(`view-${link.hash.slice(1)}`).hidden = !current;
  }
  const heading = document.getElementById(`${name}-title`);
  document.title = `${heading.textContent} · Motet`;
  document.body.dataset.view = name;
  if (focus) {
    window.scrollTo({ top: 0, behavior: 'instant' });
    heading.focus({ preventScroll: true });
  }
  onShow({ name, parameters: new URLSearchParams(query) });
}

/* The list of runs. */
'use strict';
(() => {
  const pages = fleetPages;
  const page = document.getElementById('runs-page');
  const filters = document.getElementById('filters');
  const body = document.querySelector('#runs-table tbody');
  const older = document.getElementById('older'), newest = document.getElementById('newest');
  let after = '', next = null;

  const columns = [
    ['Run', run => pages.link(`${page.dataset.page}/${encodeURIComponent(run.run)}`, run.run)],
    ['What', run => {
      const cell = pages.element('div');
      cell.append(pages.element('div', run.operation, 'what'), pages.element('div', pages.subject(run), 'where'));
      return cell;
    }],
    ['State', run => pages.badge(run.state)],
    ['Progress', run => {
      const cell = pages.element('div');
      const bar = pages.element('div', undefined, 'run-progress');
      pages.fillProgress(bar, run);
      cell.append(pages.element('div', `${pages.number(run.done)} of ${pages.number(run.total)}`), bar);
      return cell;
    }],
    ['Failed', run => pages.number(run.failed), 'end'],
    ['Rate', run => pages.rate(run), 'end'],
    ['Waits', run => run.error ? `${run.error.type}: ${run.error.message}` : run.waits.map(pages.wait).join('; ')],
    ['Since', run => run.finished_at
      ? `${pages.moment(run.created_at)}, took ${pages.duration(run.seconds)}`
      : `${pages.moment(run.created_at)}, ${pages.duration(run.seconds)}`],
  ];

  async function look() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(filters)) if (value) query.set(name, value);
    const isFiltered = query.size > 0;
    if (after) query.set('after', after);
    const asked = query.toString();
    const answer = await pages.request(`${page.dataset.api}?${asked}`);
    body.replaceChildren();
    answer.runs.forEach(run => pages.fillRow(body.insertRow(), columns, run));
    next = answer.next;
    older.disabled = !next;
    newest.disabled = !after;
    const empty = document.getElementById('empty');
    empty.classList.toggle('d-none', answer.runs.length > 0);
    empty.textContent = next ? 'None of the newest 10,000 runs fits: look at older ones.'
      : isFiltered ? 'No run fits.' : 'There are no runs: they are kept for seven days after their end.';
    document.getElementById('count').textContent =
      `${pages.number(answer.runs.length)} shown, ${pages.number(answer.total)} runs in all`;
    return false;
  }

  const step = pages.poll(look);
  let typing = null;
  filters.addEventListener('input', () => {
    after = '';
    clearTimeout(typing);
    typing = setTimeout(step, 250);
  });
  filters.addEventListener('submit', event => { event.preventDefault(); step(); });
  older.addEventListener('click', () => { after = next || ''; step(); });
  newest.addEventListener('click', () => { after = ''; step(); });
})();
